"""Rehearsal at growing distances."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.schedules import ExpandingIntervals

DAYS = [1, 2, 4, 7, 15, 30, 60, 120, 240, 480]


@given(st.integers(1, 12), st.integers(1, 40))
def test_bursts_begin_at_the_days(day, burst):
    schedule = ExpandingIntervals(day=day, burst=burst)
    slow = {start * day + offset for start in DAYS for offset in range(burst)}
    assert [step for step in range(480 * day) if schedule(step)] == [s for s in range(480 * day) if s in slow]


def test_late_steps_are_found_fast():
    schedule = ExpandingIntervals(day=1)
    assert schedule(30 * 2**40)
    assert not schedule(30 * 2**40 + 1)


@pytest.mark.parametrize("argument", ["day", "burst"])
def test_numbers_below_one_are_refused(argument):
    with pytest.raises(ValueError, match=rf"`{argument}` must be at least 1, got 0"):
        ExpandingIntervals(**{argument: 0})
