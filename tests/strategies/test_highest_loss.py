"""The highest of some candidates."""

import numpy as np
import pytest

from lightning_mixcd import HighestLoss, Ledger
from tests.oracles.chance import fits
from tests.strategies.drawing import counts, draws, started
from tests.strategies.test_loss_proportional import Probe, rehearse

N = 60
LEDGER = Ledger.from_arrays(
    correct=np.arange(N) % 3 > 0, loss=np.random.default_rng(0).permutation(N).astype(float)
)


def test_a_small_pool_does_not_always_give_the_same():
    drawn = [frozenset(draw) for draw in draws(started(HighestLoss("ledger"), LEDGER), 20, 50)]
    assert len(set(drawn)) > 40
    assert counts(started(HighestLoss("ledger"), LEDGER), N, 20, 50).astype(bool).sum() < N


def test_a_sample_is_drawn_as_often_as_it_is_among_the_highest_of_random_candidates():
    # Of 3 candidates one is drawn: the highest with chance 1 - (1 - x)^3 and so on, by counting all triples.
    found = counts(started(HighestLoss("ledger", candidates_per_row=3), LEDGER), N, 1, 6000)
    rank = LEDGER.loss.astype(int)
    wins = rank * (rank - 1) / 2
    assert fits(found[wins > 100], wins[wins > 100])


def test_one_candidate_per_row_is_uniform():
    assert set(counts(started(HighestLoss("ledger", candidates_per_row=1), LEDGER), N, 3, 100)) == {5}


def test_every_sample_is_a_candidate_in_each_pass():
    # With everything else at the bottom, a sample is drawn whenever it is a candidate: once per 12 draws.
    for highest in (0, 31, 59):
        ledger = Ledger.from_arrays(correct=[True] * N, loss=np.eye(N)[highest])
        assert counts(started(HighestLoss("ledger"), ledger), N, 1, 36)[highest] == 3


def test_what_was_last_seen_counts():
    strategy, last = started(HighestLoss(), LEDGER), int(np.argmin(LEDGER.loss))
    assert counts(strategy, N, 1, 36)[last] == 0
    rehearse(strategy, [last], [100.0])
    assert counts(strategy, N, 1, 36)[last] == 3


def test_a_pass_counts():
    strategy, last = started(HighestLoss("refresh"), LEDGER), int(np.argmin(LEDGER.loss))
    strategy.refresh(Probe([float(i == last) for i in range(N)]))
    assert counts(strategy, N, 1, 36)[last] == 3


def test_base_correct_samples_alone():
    strategy = started(HighestLoss("ledger", correct_only=True), LEDGER)
    assert strategy.n_available == 40
    assert sorted(draws(strategy, 40, 1)[0]) == np.flatnonzero(LEDGER.correct).tolist()


def test_no_candidates_are_refused():
    with pytest.raises(
        ValueError, match=r"`candidates_per_row` must be at least 1, got 0\. The default is 5"
    ):
        HighestLoss(candidates_per_row=0)
