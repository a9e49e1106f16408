"""Each rule of a screen, broken on purpose, is found."""

import pytest
import torch

from lightning_mixcd import Screening
from lightning_mixcd.testing import check_strategy


def screening(function):
    class Broken(Screening):
        def __init__(self):
            super().__init__(candidates_per_row=3)

        def screen(self, candidates, n):
            return function(candidates.look.see(candidates.rows).loss, n)

    return Broken


def test_a_good_one_passes():
    check_strategy(screening(lambda loss, n: loss.argsort()[:n]))


@pytest.mark.parametrize(
    "function",
    [
        lambda loss, n: loss.argsort(),
        lambda loss, n: loss.argsort()[:n].int(),
        lambda loss, n: torch.zeros(n, dtype=torch.int64),
        lambda loss, n: torch.arange(len(loss), len(loss) + n),
        lambda loss, n: loss > loss.mean(),
        lambda loss, n: [*range(n)],
    ],
)
def test_positions_must_be_distinct_and_as_many_as_asked_for(function):
    with pytest.raises(AssertionError, match=r"`Broken.screen` must return \d+ distinct positions among 24"):
        check_strategy(screening(function))


def test_the_same_candidates_must_be_chosen_from_alike():
    calls = []

    def other_each_time(loss, n):
        calls.append(n)
        return torch.arange(n).roll(len(calls)) + 1

    with pytest.raises(AssertionError, match="must choose the same of the same candidates"):
        check_strategy(screening(other_each_time))


@pytest.mark.parametrize(
    "function",
    [
        lambda loss, n: torch.tensor(loss.tolist()).argsort()[:n],
        lambda loss, n: loss.argsort(descending=bool(loss.sum() > 0))[:n],
        lambda loss, n: torch.cat([(loss > 0).nonzero().flatten(), (loss <= 0).nonzero().flatten()])[:n],
    ],
)
def test_values_on_the_device_must_not_be_read(function):
    with pytest.raises(AssertionError, match="must choose on the device and must not read values there"):
        check_strategy(screening(function))
