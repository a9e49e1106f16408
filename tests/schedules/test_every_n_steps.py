"""Rehearsal at even distances."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.schedules import EveryNSteps


@given(st.integers(1, 7), st.integers(0, 9), st.none() | st.integers(10, 30))
def test_as_a_range_counts(n, first, last):
    schedule = EveryNSteps(n, first=first, last=last)
    stop = 40 if last is None else last
    assert [step for step in range(40) if schedule(step)] == list(range(first, stop, n))


def test_every_step_by_default():
    assert all(EveryNSteps()(step) for step in range(5))


def test_no_distance_is_refused():
    with pytest.raises(ValueError, match=r"`n` must be at least 1, got 0\. 1 rehearses at every step"):
        EveryNSteps(0)


@pytest.mark.parametrize("last", [3, 4])
def test_end_before_the_start_is_refused(last):
    with pytest.raises(
        ValueError, match=rf"`last` must be above `first` \(4\), got {last}\. None means no end"
    ):
        EveryNSteps(first=4, last=last)
