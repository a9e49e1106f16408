"""Fingerprints of pools: another pool is noticed, a random transform is no other pool."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from lightning_mixcd.ledger.pool_fingerprint import fingerprint_pool, keep_global_rng, pool_difference


def samples(size=100):
    return [(torch.tensor([float(i), 1.0]), i % 3) for i in range(size)]


def difference(one, other):
    return pool_difference(fingerprint_pool(one), fingerprint_pool(other))


class Transformed(Dataset):
    """Applies a transform that may draw at random."""

    def __init__(self, transform, size=100):
        self.samples, self.transform = samples(size), transform

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        x, y = self.samples[index]
        return self.transform(x), y


JITTERS = {
    "torch": lambda x: x + torch.rand(2),
    "numpy": lambda x: x + np.random.rand(),  # noqa: NPY002
    "python": lambda x: x + random.random(),
    "coin": lambda x: x.flip(0) if random.random() < 0.5 else x,
}


def crop(x):
    return x[: random.randint(0, 2)]


def test_equal_pools_have_equal_fingerprints():
    assert fingerprint_pool(samples()) == fingerprint_pool(samples())
    assert difference(samples(), samples()) is None


def test_containers_of_the_same_samples_agree():
    x = torch.arange(20.0).reshape(10, 2)
    dataset = TensorDataset(x, torch.arange(10))
    assert difference(dataset, [(x[i], torch.tensor(i)) for i in range(10)]) is None
    assert difference(dataset, Subset(dataset, range(10))) is None


def test_size_is_told():
    assert difference(samples(100), samples(90)) == "size: 100 vs 90"


@pytest.mark.parametrize("index", [0, 17, 63])
def test_one_changed_sample_of_a_small_pool_is_told(index):
    changed = samples(64)
    changed[index] = (torch.tensor([-1.0, 1.0]), changed[index][1])
    expected = f"content: 1 of 64 probed samples differ, the first at pool index {index}"
    assert difference(samples(64), changed) == expected


@pytest.mark.parametrize("index", [0, 9999])
def test_first_and_last_sample_of_a_large_pool_are_probed(index):
    changed = samples(10_000)
    changed[index] = (torch.tensor([-1.0, 1.0]), changed[index][1])
    assert f"pool index {index}" in difference(samples(10_000), changed)


def test_sample_that_cannot_be_read_is_compared_with_nothing():
    class Holed(list):
        def __getitem__(self, index):
            if index == 2:
                raise OSError("cannot be read")
            return super().__getitem__(index)

    holed, whole = (fingerprint_pool(pool, unreadable="skip") for pool in (Holed(samples(5)), samples(5)))
    assert pool_difference(holed, whole) is pool_difference(whole, holed) is None
    assert "pool index 0" in pool_difference(holed, fingerprint_pool(samples(5)[::-1]))


def test_another_order_is_another_pool():
    assert "content: " in difference(samples(), samples()[::-1])


def test_probes_are_few_and_evenly_spread():
    read = []

    class Logged(Transformed):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    fingerprint_pool(Logged(lambda x: x, size=1000))
    probes = sorted(set(read))
    assert len(probes) == 64
    assert len(read) == 2 * 64
    assert {later - earlier for earlier, later in pairwise(probes)} <= {15, 16}


def test_another_structure_is_told_before_content():
    other = [(x.double(), y) for x, y in samples()]
    assert difference(samples(), other).startswith("types, shapes or dtypes: 64 of 64 probed samples differ")


@pytest.mark.parametrize("jitter", JITTERS)
def test_random_transforms_make_no_difference(jitter):
    random_pool = Transformed(JITTERS[jitter])
    assert fingerprint_pool(random_pool)["values"] is None
    assert difference(random_pool, random_pool) is None
    assert difference(random_pool, samples()) is None
    assert difference(samples(), random_pool) is None


@pytest.mark.parametrize("size", [1, 2, 5])
def test_coin_flips_are_noticed_in_tiny_pools(size):
    assert fingerprint_pool(Transformed(JITTERS["coin"], size))["values"] is None


def test_random_transforms_do_not_hide_another_structure():
    assert "types, shapes or dtypes" in difference(
        Transformed(JITTERS["torch"]), Transformed(lambda x: (x + torch.rand(2)).double())
    )


def test_random_shapes_leave_the_size_alone():
    fingerprint = fingerprint_pool(Transformed(crop))
    assert fingerprint == {"size": 100, "structure": None, "values": None}
    assert difference(Transformed(crop), Transformed(crop)) is None
    assert difference(Transformed(crop), Transformed(crop, 90)) == "size: 100 vs 90"


def draws():
    return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002


def seed(value):
    torch.manual_seed(value)
    np.random.seed(value)  # noqa: NPY002
    random.seed(value)


def test_global_random_state_is_left_alone():
    seed(1)
    expected = draws()
    seed(1)
    for jitter in JITTERS.values():
        fingerprint_pool(Transformed(jitter))
    assert draws() == expected


def test_global_random_state_comes_back_after_an_error():
    seed(1)
    expected = draws()
    seed(1)
    with pytest.raises(ZeroDivisionError), keep_global_rng():
        draws()[0] / 0
    assert draws() == expected


class Stream(IterableDataset):
    def __iter__(self):
        return iter(samples())


class SizedStream(Stream):
    def __len__(self):
        return 100


class Unsized(Dataset):
    def __getitem__(self, index):
        return index


@pytest.mark.parametrize("pool", [Stream(), SizedStream(), Unsized(), iter(samples()), {1, 2}, 7])
def test_pools_that_cannot_be_indexed_are_refused(pool):
    with pytest.raises(TypeError, match=f"`pool` must be map-style, .* got {type(pool).__name__}; .*list"):
        fingerprint_pool(pool)


def test_empty_pools_are_refused():
    with pytest.raises(ValueError, match="`pool` must hold at least one sample, got 0"):
        fingerprint_pool([])
