"""The highest loss first."""

import pytest

from lightning_mixcd import ScreenHighestLoss
from tests.strategies.screening import alone, chosen, drifted, highest, some
from tests.toys import pool


@pytest.mark.parametrize("n", [1, 5, 20])
def test_highest_loss_first(n):
    module, index = drifted(), some(20)
    assert chosen(ScreenHighestLoss(), module, index, n) == highest(alone(module, index)[1], index, n)


def test_rows_without_a_loss_come_last():
    module, index = drifted(), some(20)
    x, y = pool()[index]
    y = y.clone()
    y[[2, 11]] = -100
    ranked = highest(alone(module, index)[1], index, 20)
    nameless = index[[2, 11]].tolist()
    expected = [i for i in ranked if i not in nameless] + nameless
    assert chosen(ScreenHighestLoss(), module, index, 20, rows=[x, y]) == expected
