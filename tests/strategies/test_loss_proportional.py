"""Chances in proportion to losses, wherever the losses come from."""

import numpy as np
import pytest
import torch

from lightning_mixcd import CaptureError, Ledger, LossProportional
from lightning_mixcd.types import Outcome
from tests.oracles.chance import fits
from tests.strategies.drawing import counts, draws, started

LOSS = np.array([0.1, 0.4, 1.0, 2.0, 0.5])
LEDGER = Ledger.from_arrays(correct=[True, True, True, False, True], loss=LOSS)


class Probe:
    """A model with given losses."""

    def __init__(self, losses):
        self.all, self.asked = torch.tensor(losses, dtype=torch.float32), []

    def losses(self, index):
        self.asked += index.tolist()
        return self.all[index]


def rehearse(strategy, index, loss):
    """Let a strategy see the losses of one lesson."""
    outcome = Outcome(torch.tensor(index), torch.ones(len(index), dtype=torch.bool), torch.tensor(loss))
    strategy.update(strategy.tally(outcome), steps=1.0)


@pytest.mark.parametrize("source", ["ledger", "last_seen", "refresh"])
def test_a_run_begins_with_the_losses_of_the_ledger(source):
    found = counts(started(LossProportional(source, floor=0.0), LEDGER), 5, 1, 3000)
    assert fits(found, LOSS)


def test_last_seen_losses_are_kept_and_repeated_ones_averaged():
    strategy = started(LossProportional(floor=0.0), LEDGER)
    rehearse(strategy, [2, 1], [9.0, 3.0])
    rehearse(strategy, [1, 4, 1], [0.2, 0.0, 1.0])
    assert strategy.signal().tolist() == pytest.approx([0.1, 0.6, 9.0, 2.0, 0.0])


def test_a_second_run_goes_by_its_own_ledger():
    strategy = started(LossProportional("ledger", floor=0.0), LEDGER)
    draws(strategy, 1, 1)
    other = Ledger.from_arrays(correct=[True] * 5, loss=[0.0, 0.0, 0.0, 0.0, 1.0])
    assert draws(started(strategy, other), 1, 5) == [[4]] * 5


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_not_learnt(broken):
    strategy = started(LossProportional(), LEDGER)
    rehearse(strategy, [2, 1], [broken, 3.0])
    assert strategy.signal().tolist() == pytest.approx([0.1, 3.0, 1.0, 2.0, 0.5])
    refreshed = started(LossProportional("refresh"), LEDGER)
    refreshed.refresh(Probe([1.0, broken, 2.0, 3.0, 4.0]))
    assert refreshed.signal().tolist() == pytest.approx([1.0, 0.4, 2.0, 3.0, 4.0])


def test_negative_losses_count_as_none():
    ledger = Ledger.from_arrays(correct=[True] * 3, loss=[-4.0, 1.0, 3.0])
    found = counts(started(LossProportional("ledger", floor=0.0), ledger), 3, 1, 1000)
    assert found[0] == 0
    assert fits(found[1:], [1, 3])


def test_outcome_without_losses_is_refused():
    outcome = Outcome(torch.tensor([1]), torch.tensor([True]))
    with pytest.raises(CaptureError, match=r"LossProportional goes by the loss of each .* Return logits"):
        started(LossProportional(), LEDGER).tally(outcome)
    assert started(LossProportional("ledger"), LEDGER).tally(outcome) is None


def test_a_pass_replaces_all_losses_and_asks_for_each_sample_once():
    strategy, probe = started(LossProportional("refresh", floor=0.0), LEDGER), Probe([4.0, 0, 0, 0, 1.0])
    before = strategy.signal()
    strategy.refresh(probe)
    assert probe.asked == [0, 1, 2, 3, 4]
    assert before.tolist() == pytest.approx(LOSS)
    found = counts(strategy, 5, 1, 1000)
    assert fits(found[[0, 4]], [4, 1])
    assert not found[1:4].any()


def test_base_correct_samples_alone():
    strategy, probe = started(LossProportional("refresh", correct_only=True), LEDGER), Probe([1.0] * 5)
    strategy.refresh(probe)
    assert probe.asked == [0, 1, 2, 4]
    assert strategy.n_available == 4
    assert sorted(draws(strategy, 4, 1)[0]) == [0, 1, 2, 4]


def test_only_what_is_used_is_asked_for():
    assert [LossProportional(source).needs_loss for source in ("ledger", "last_seen", "refresh")] == [
        False,
        True,
        False,
    ]
    assert LossProportional("last_seen", every_n_steps=7).refresh_every_n_steps is None
    assert LossProportional("refresh", every_n_steps=7).refresh_every_n_steps == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "guess"}, r"`source` must be one of \['ledger', 'last_seen', 'refresh'\], got 'guess'"),
        ({"every_n_steps": 0}, r"`every_n_steps` must be at least 1, got 0\. The default is 100"),
        ({"floor": 1.5}, r"`floor` must be in \[0, 1\], got 1\.5\. The default is 0\.05"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        LossProportional(**options)


def test_a_pool_without_correct_samples_is_refused_if_only_these_are_drawn():
    wrong = Ledger.from_arrays(correct=[False], loss=[1.0])
    with pytest.raises(ValueError, match=r"`ledger` must have a sample that the base model got right"):
        started(LossProportional(correct_only=True), wrong)
    assert draws(started(LossProportional(), wrong), 1, 1) == [[0]]
