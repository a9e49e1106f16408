"""What the base checks and what it does for strategies that learn nothing."""

import pytest
import torch

from lightning_mixcd.strategies import Strategy
from lightning_mixcd.types import Outcome


class Given(Strategy):
    def __init__(self, index):
        self.index = index

    def setup(self, n_pool, ledger, *, seed):
        self.n_available = n_pool

    def select(self, n, *, signal, generator):
        return self.index


def draw(index, n, n_pool=10):
    strategy = Given(index)
    strategy.setup(n_pool, None, seed=0)
    return strategy.draw(n, signal=None, generator=torch.Generator())


def test_good_draw_is_handed_on():
    assert draw(torch.tensor([3, 1]), 2).tolist() == [3, 1]


@pytest.mark.parametrize("n", [0, -1, 11])
def test_more_than_there_is_or_nothing_is_refused(n):
    message = rf"`n` must be between 1 and .* that Given may draw \(10\), got {n}\. Lower `mix_ratio`"
    with pytest.raises(ValueError, match=message):
        draw(torch.arange(11), n)


@pytest.mark.parametrize(
    ("index", "found"),
    [
        (torch.tensor([1, 2]), r"torch\.int64 of shape \(2,\) with 2 distinct"),
        (torch.tensor([1, 2, 2]), r"torch\.int64 of shape \(3,\) with 2 distinct"),
        (torch.tensor([1.0, 2.0, 3.0]), r"torch\.float32 of shape \(3,\) with 3 distinct"),
        (torch.tensor([[1, 2, 3]]), r"torch\.int64 of shape \(1, 3\) with 3 distinct"),
    ],
)
def test_bad_selection_is_refused(index, found):
    message = rf"`Given\.select` must return 3 distinct pool indices as int64 of shape \(3,\), got {found}"
    with pytest.raises(ValueError, match=message):
        draw(index, 3)


def test_nothing_needs_to_be_learnt():
    strategy = Given(torch.arange(2))
    outcome = Outcome(torch.arange(2), torch.tensor([True, False]))
    assert strategy.tally(outcome) is None
    assert strategy.signal() is None
    assert strategy.context(outcome.index) == strategy.metrics() == strategy.state_dict() == {}
    assert strategy.draw_state().tolist() == []
    assert strategy.rehearses
    assert strategy.refresh_every_n_steps is None
