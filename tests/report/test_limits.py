import pytest

from lightning_mixcd.report.intervals import Interval
from lightning_mixcd.report.limits import limits


def around(mean, half=0.0):
    return Interval(mean, mean - half, mean + half)


def test_everything_is_within_where_nothing_is_far():
    low, high = limits([around(0.2, 0.05), around(0.5, 0.1), around(0.4, 0.1)])
    assert 0 < low < 0.15
    assert 0.6 < high < 0.75


def test_far_mean_and_long_interval_do_not_press_the_others_together():
    usual = [around(0.5 + 0.01 * k, 0.02) for k in range(10)]
    assert limits([*usual, around(0.0)]) == pytest.approx(limits(usual), abs=0.02)
    assert limits([*usual, around(0.55, 5.0)]) == pytest.approx(limits(usual), abs=0.02)


@pytest.mark.parametrize("mean", [0.0, 0.8, -3.0])
def test_single_value_has_room(mean):
    low, high = limits([around(mean)])
    assert low < mean < high
