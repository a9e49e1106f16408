"""Chance in fetching and collating: the same for the same draw, and unseen by everything else."""

import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset, default_collate

from lightning_mixcd.data.seeded import SeededFetch, seeded


def three():
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002 -- the global state is what is tested


def global_states():
    # With the position, which alone moves while a block of numbers lasts.
    numpy_state = [np.asarray(part).tolist() for part in np.random.get_state()]  # noqa: NPY002 -- as below
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


class Noisy:
    def __getitem__(self, i):
        return i, three()


class NoisyBatches(Noisy):
    def __getitems__(self, index):
        return [self[i] for i in index]


def noisy_collate(samples):
    return samples, three()


def test_key_decides_all_three():
    found = []
    for key in (3, 3, 4):
        with seeded(key):
            found.append(three())
    assert found[0] == found[1]
    assert all(a != b for a, b in zip(found[0], found[2], strict=True))


@pytest.mark.parametrize("key", [0, 2**32, 2**64 - 1])
def test_any_key_will_do_and_states_come_back(key):
    before = global_states()
    with seeded(key):
        three()
    assert global_states() == before


def test_states_come_back_after_an_error():
    before = global_states()
    with pytest.raises(ZeroDivisionError), seeded(1):
        1 / (three()[0] < 0)
    assert global_states() == before


@pytest.mark.parametrize("dataset", [Noisy(), NoisyBatches()])
def test_draw_and_seed_decide_augmentation_and_collation(dataset):
    before = global_states()

    def fetch(draw, seed=0):
        return SeededFetch(dataset, noisy_collate, seed=seed).__getitems__((draw, [4, 2]))

    assert [i for i, _ in fetch(7)[0]] == [4, 2]
    assert fetch(7) == fetch(7)
    found = [fetch(7), fetch(8), fetch(7, seed=1)]
    chances = [noise for samples, last in found for noise in (*(n for _, n in samples), last)]
    assert len({*chances}) == 9
    assert global_states() == before


def test_default_collation_is_torchs():
    batch = SeededFetch([1.0, 2.0, 3.0], seed=0).__getitems__((0, [2, 0]))
    assert batch.tolist() == [3, 1]


@pytest.mark.parametrize("index", [[0], [3, 0, 3], [4, 1, 2, 0]])
def test_rows_in_memory_are_what_torchs_collation_makes(index):
    data = TensorDataset(torch.randn(5, 2, 3), torch.arange(5), torch.rand(5, 1, dtype=torch.float64))
    ours = SeededFetch(data, seed=None).__getitems__((0, index))
    theirs = default_collate([data[i] for i in index])
    assert type(ours) is type(theirs)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(ours, theirs, strict=True))


@dataclass  # as the collators of Transformers are, and so without a hash
class Summed:
    plus: int

    def __call__(self, samples):
        return sum(x for (x,) in samples) + self.plus


def test_collator_without_a_hash_is_used():
    fetch = SeededFetch(TensorDataset(torch.arange(5)), Summed(plus=10), seed=0)
    assert fetch.__getitems__((0, [1, 4])) == 15


def test_without_a_seed_nothing_is_seeded():
    torch.manual_seed(7)
    free = SeededFetch(Noisy(), lambda rows: rows, seed=None).__getitems__((0, [5]))
    torch.manual_seed(7)
    assert free[0][1][2] == torch.rand(()).item()
