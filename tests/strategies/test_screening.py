"""What all screens share: where candidates come from, and how the best of them are found."""

import numpy as np
import pytest
import torch

from lightning_mixcd import (
    ASER,
    MIR,
    ClassBalanced,
    GradientMatching,
    LastLayerInfluence,
    MixCD,
    NoRehearsal,
    Oracle,
    ScreenDamaged,
    ScreenHighestLoss,
    Screening,
    ScreenLeastConfidence,
    Uniform,
    UniformCorrect,
)
from lightning_mixcd.strategies._screening import first
from tests.strategies.drawing import draws, labelled, started
from tests.strategies.screening import candidates, drifted, some


class FirstOnes(Screening):
    def __init__(self, source=None, *, candidates_per_row=2):
        super().__init__(source, candidates_per_row=candidates_per_row)

    def screen(self, candidates, n):
        return torch.arange(n)


LEDGER = labelled(30, 50, wrong=20)


@pytest.mark.parametrize("source", [Uniform, UniformCorrect, ClassBalanced])
def test_candidates_are_those_of_the_source(source):
    screen, alone = started(FirstOnes(source()), LEDGER), started(source(), LEDGER)
    assert screen.n_available == alone.n_available
    assert draws(screen, 8, 30) == draws(alone, 8, 30)
    assert torch.equal(screen.draw_state(), alone.draw_state())
    assert screen.needs_ledger == source.needs_ledger
    resumed = started(FirstOnes(source()), LEDGER)
    resumed.load_draw_state(screen.draw_state())
    assert draws(resumed, 8, 5, first=30) == draws(screen, 8, 5, first=30)


def test_streams_are_drawn_as_the_source_draws_them():
    screen, alone = FirstOnes(), Uniform()
    for strategy in (screen, alone):
        strategy.setup_streams(torch.tensor([1.0, 3.0], dtype=torch.float64), seed=0)
    assert draws(screen, 6, 20) == draws(alone, 6, 20)


def test_uniform_unless_said_otherwise():
    assert type(FirstOnes().source) is Uniform


@pytest.mark.parametrize("source", [MixCD, Oracle, NoRehearsal, MIR])
def test_sources_that_do_more_than_draw_are_refused(source):
    with pytest.raises(ValueError, match=rf"`source` of FirstOnes must .* got {source.__name__}\. It would"):
        FirstOnes(source())


def test_what_is_no_strategy_is_refused():
    with pytest.raises(TypeError, match=r"`source` must be a strategy, got 'uniform'\. Pass for example"):
        FirstOnes("uniform")


def test_one_candidate_is_no_choice():
    with pytest.raises(ValueError, match=r"`candidates_per_row` must be at least 2, got 1\. With 1 there is"):
        FirstOnes(candidates_per_row=1)


# Of 20 candidates beside 8 finetune rows.
@pytest.mark.parametrize(
    ("kind", "forwards", "backwards"),
    [
        (ScreenDamaged, 20, 0),
        (ScreenHighestLoss, 20, 0),
        (ScreenLeastConfidence, 20, 0),
        (GradientMatching, 20, 0),
        (LastLayerInfluence, 28, 0),
        (ASER, 28, 0),
        (MIR, 48, 8),
    ],
)
def test_looks_cost_what_they_run(kind, forwards, backwards):
    given = candidates(drifted(), some(20))
    kind().screen(given, 5)
    assert (given.look.forwards, given.look.backwards) == (forwards, backwards)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("n", [1, 7, 40])
def test_first_are_the_highest_in_order_and_equals_as_they_come(n):
    scores = np.random.default_rng(0).integers(0, 6, 40).astype(float)
    scores[[3, 9]] = np.nan
    scores[4], scores[5] = np.inf, -np.inf
    expected = sorted(range(40), key=lambda i: (scores[i] != scores[i], -np.nan_to_num(scores[i])))
    found = first(torch.from_numpy(scores), n).tolist()
    at = [5, 3, 9]  # what is lowest is all alike
    assert [i for i in found if i not in at] == [i for i in expected[:n] if i not in at]
    assert n < 40 or sorted(found[-3:]) == sorted(at)
