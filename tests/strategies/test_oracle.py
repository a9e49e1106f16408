"""A full pass, and a mixture of what it finds with uniform samples."""

import numpy as np
import pytest
import torch

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.strategies import Oracle
from tests.oracles.chance import fits
from tests.strategies.drawing import counts, draws, labelled, started


class Probe:
    """A model that has these samples wrong."""

    def __init__(self, wrong):
        self.wrong, self.asked = torch.tensor(wrong, dtype=torch.int64), []

    def correct(self, index):
        self.asked += index.tolist()
        return ~torch.isin(index, self.wrong)


def refreshed(damaged, ledger=None, **options):
    strategy = started(Oracle(**options), ledger or labelled(100, wrong=20))
    strategy.refresh(Probe(damaged))
    return strategy


def test_a_pass_asks_for_each_base_correct_sample_once():
    strategy, probe = started(Oracle(), labelled(100, wrong=20)), Probe([])
    strategy.refresh(probe)
    assert sorted(probe.asked) == list(range(100))


def test_what_the_base_model_had_wrong_is_not_damaged():
    assert refreshed([5, 110]).signal().nonzero().flatten().tolist() == [5]


def test_without_uniform_share_only_damaged_samples_are_drawn():
    found = counts(refreshed(list(range(10, 30)), uniform_share=0.0), 120, 5, 800)
    assert found[10:30].sum() == found.sum()
    assert fits(found[10:30])


def test_with_full_uniform_share_damage_does_not_matter():
    found = counts(refreshed(list(range(10, 30)), uniform_share=1.0), 120, 5, 800)
    assert set(found[:100]) == {40}
    assert not found[100:].any()


def test_share_in_between_is_kept_in_the_long_run():
    # Of each draw 70% are aimed; a fifth of the rest is damaged too, or nearly: aimed ones are passed over.
    damaged = np.arange(400) < 80
    strategy = refreshed(np.flatnonzero(damaged).tolist(), labelled(400), uniform_share=0.3)
    found = counts(strategy, 400, 5, 1500)
    share = found[damaged].sum() / found.sum()
    assert share == pytest.approx(0.7 + 0.3 * (80 - 4) / 400, abs=0.02)


def test_a_damaged_sample_is_as_likely_in_every_place_of_a_draw():
    damaged = range(10, 30)
    drawn = np.array(draws(refreshed(list(damaged), uniform_share=0.5), 6, 1500))
    assert fits(np.isin(drawn, damaged).sum(axis=0))


def test_few_damaged_samples_are_all_drawn_and_the_rest_is_uniform():
    strategy = refreshed([3, 50, 99], uniform_share=0.0)
    drawn = draws(strategy, 10, 300)
    assert all({3, 50, 99} <= {*draw} for draw in drawn)
    found = np.delete(np.bincount([i for draw in drawn for i in draw], minlength=100), [3, 50, 99])
    assert fits(found)


@pytest.mark.parametrize("uniform_share", [0.0, 0.5, 1.0])
def test_without_damage_or_before_the_first_pass_it_is_uniform(uniform_share):
    for strategy in (refreshed([], uniform_share=uniform_share), started(Oracle(), labelled(100, wrong=20))):
        assert set(counts(strategy, 120, 5, 100)[:100]) == {5}


def test_all_there_is_can_be_drawn():
    assert sorted(draws(refreshed([0, 1]), 100, 1)[0]) == list(range(100))


def test_a_later_pass_replaces_an_earlier_one():
    strategy = refreshed([1, 2, 3])
    before = strategy.signal()
    strategy.refresh(Probe([4]))
    assert strategy.signal().nonzero().flatten().tolist() == [4]
    assert before.nonzero().flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, r"`every_n_steps` must be at least 1, got 0\. The default is 20"),
        ({"uniform_share": -0.1}, r"`uniform_share` must be in \[0, 1\], got -0\.1"),
        ({"uniform_share": 1.1}, r"`uniform_share` must be in \[0, 1\], got 1\.1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Oracle(**options)


def test_a_pool_without_correct_samples_is_refused():
    with pytest.raises(
        ValueError, match=r"`ledger` must have a sample that the base model got right, got none"
    ):
        started(Oracle(), Ledger.from_arrays(correct=[False], loss=[1.0]))
