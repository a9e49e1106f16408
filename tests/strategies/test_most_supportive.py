"""The most supportive of some candidates."""

import numpy as np
import pytest

from lightning_mixcd import HighestLoss, Ledger, MostSupportive
from tests.strategies.drawing import draws, started

N = 60
SCORES = np.random.default_rng(0).permutation(N).astype(float) - 30
LEDGER = Ledger.from_arrays(correct=np.arange(N) % 3 > 0, loss=30 - SCORES, influence=SCORES, other=-SCORES)


@pytest.mark.parametrize("correct_only", [False, True])
def test_lowest_scores_are_drawn_as_highest_losses_are(correct_only):
    settings = {"candidates_per_row": 3, "correct_only": correct_only}
    found = draws(started(MostSupportive(**settings), LEDGER), 4, 50)
    assert found == draws(started(HighestLoss("ledger", **settings), LEDGER), 4, 50)
    assert np.mean(SCORES[np.concatenate(found)]) < -5


def test_scores_come_from_the_named_column():
    found = draws(started(MostSupportive("other"), LEDGER), 4, 50)
    assert np.mean(SCORES[np.concatenate(found)]) > 5


@pytest.mark.parametrize("values", [["a"] * N, [[1.0]] * N, [float("nan")] * N])
def test_other_columns_are_refused(values):
    ledger = Ledger.from_arrays(correct=[True] * N, loss=[0.0] * N, influence=values)
    with pytest.raises(
        ValueError, match=r"`column` must name finite scores, one per sample, but 'influence'"
    ):
        started(MostSupportive(), ledger)


def test_missing_scores_are_asked_for():
    with pytest.raises(ValueError, match="got 'influence'"):
        started(MostSupportive(), Ledger.from_arrays(correct=[True], loss=[0.0]))
