"""What the base checks and what it does for strategies that learn nothing."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_mixcd import RehearsalCallback
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.types import Outcome
from tests.toys import Toy, finetune, pool, trainer


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
        ([1, 2, 3], "a list"),
        (np.arange(3), "a ndarray"),
        (None, "a NoneType"),
        (torch.tensor([1, 2]), r"torch\.int64 of shape \(2,\) on cpu"),
        (torch.tensor([1.0, 2.0, 3.0]), r"torch\.float32 of shape \(3,\)"),
        (torch.tensor([True, False, True]), r"torch\.bool of shape \(3,\)"),
        (torch.tensor([[1, 2, 3]]), r"torch\.int64 of shape \(1, 3\)"),
        (torch.arange(3, device="meta"), r"torch\.int64 of shape \(3,\) on meta"),
    ],
)
def test_selection_of_another_kind_is_refused_where_it_is_returned(index, found):
    message = (
        rf"`Given\.select` must return .* int64 tensor of shape \(3,\) on the CPU, got {found}.*torch\.tensor"
    )
    with pytest.raises(ValueError, match=message):
        draw(index, 3)


def test_samples_that_come_twice_in_a_draw_are_refused():
    with pytest.raises(
        ValueError, match=r"`Given\.select` must return 3 distinct pool indices, got 2 distinct"
    ):
        draw(torch.tensor([1, 2, 2]), 3)


def test_samples_that_come_twice_in_any_draw_of_a_round_are_refused():
    class Rounds(Given):
        def select_round(self, n_draws, n, *, signal, generator):
            return self.index

    strategy = Rounds(torch.tensor([[1, 2], [3, 3]]))
    strategy.setup(10, None, seed=0)
    with pytest.raises(ValueError, match="must return 2 distinct pool indices, got 1 distinct"):
        strategy.draw_round(2, 2, signal=None, generator=torch.Generator())


@pytest.mark.parametrize("index", [[torch.tensor([1, 2])] * 2, torch.tensor([1, 2]), torch.tensor([[1, 2]])])
def test_round_of_another_shape_is_refused(index):
    class Rounds(Given):
        def select_round(self, n_draws, n, *, signal, generator):
            return self.index

    strategy = Rounds(index)
    strategy.setup(10, None, seed=0)
    message = r"`Rounds\.select_round` must return .* of shape \(2, 2\) on the CPU, got "
    with pytest.raises(ValueError, match=message):
        strategy.draw_round(2, 2, signal=None, generator=torch.Generator())


@pytest.mark.parametrize("outside", [-1, 60])
def test_samples_outside_the_pool_are_refused_in_training(outside):
    callback = RehearsalCallback(Given(torch.tensor([0, outside])), pool=pool())
    with pytest.raises(
        ValueError, match=rf"`Given\.select` must .* in \[0, 60\), got \[{outside}, {outside}"
    ):
        trainer(callback).fit(Toy(), DataLoader(finetune(), 8))


def test_nothing_needs_to_be_learnt():
    strategy = Given(torch.arange(2))
    outcome = Outcome(torch.arange(2), torch.tensor([True, False]))
    assert strategy.tally(outcome) is None
    assert strategy.signal() is None
    assert strategy.context(outcome.index) == strategy.metrics() == strategy.state_dict() == {}
    assert strategy.draw_state().tolist() == []
    assert strategy.rehearses
    assert strategy.refresh_every_n_steps is None
