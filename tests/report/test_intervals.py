import math

import numpy as np
import pytest
from scipy import stats

from lightning_mixcd.report.intervals import fieller, t_interval


def test_interval_is_the_t_interval():
    values = [float(value) for value in np.random.default_rng(0).normal(size=7)]
    mean = sum(values) / 7
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / 6)
    # The t quantile 0.975 with 6 degrees of freedom, from tables.
    half = 2.4469118511449692 * spread / math.sqrt(7)
    interval = t_interval(values)
    assert interval.mean == pytest.approx(mean)
    assert (interval.low, interval.high) == (pytest.approx(mean - half), pytest.approx(mean + half))


def test_interval_of_one_value_has_no_width():
    one = t_interval([0.3])
    assert one.low == one.mean == one.high == 0.3
    assert str(one) == "+30.0"


@pytest.mark.parametrize("seed", range(5))
def test_ends_of_a_ratio_are_where_the_paired_t_test_turns(seed):
    rng = np.random.default_rng(seed)
    below = rng.normal(1, 0.2, 8)
    above = 0.5 * below + rng.normal(0, 0.3, 8)
    interval = fieller(above, below)
    assert interval.mean == pytest.approx(above.mean() / below.mean())
    for end in (interval.low, interval.high):
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05)
    for ratio, inside in ((interval.mean, True), (interval.low - 0.1, False), (interval.high + 0.1, False)):
        assert (stats.ttest_1samp(above - ratio * below, 0).pvalue > 0.05) == inside


def test_ratio_to_itself_is_exactly_one():
    values = [0.2, 0.3, 0.25]
    interval = fieller(values, values)
    assert (interval.mean, interval.low, interval.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("below", [[0.1, -0.1, 0.02], [-0.2, -0.21, -0.19], [0.3], []])
def test_no_ratio_to_what_may_be_nothing_or_less(below):
    assert fieller([0.1, 0.2, 0.3][: len(below)], below) is None
