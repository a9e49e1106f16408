"""Compute units: exact sums of whole numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.metrics import ComputeUnits

counts = st.integers(0, 10**15)


@given(st.lists(st.tuples(counts, counts), min_size=1, max_size=20))
def test_units_are_forwards_plus_twice_backwards(steps):
    units = ComputeUnits()
    for forwards, backwards in steps:
        units.update(forwards, backwards)
    total = units.compute()
    assert total.dtype == torch.int64
    assert total.item() == sum(forwards + 2 * backwards for forwards, backwards in steps)


def test_one_more_than_a_float_can_hold():
    units = ComputeUnits()
    units.update(2**53, 0)
    units.update(1, 0)
    assert units.compute().item() == 2**53 + 1


def test_whole_numbers_of_numpy_count():
    units = ComputeUnits()
    units.update(np.int64(3), np.int32(1))
    assert units.compute().item() == 5


@pytest.mark.parametrize("count", [1.0, True, torch.tensor(1), None, "1"])
def test_other_types_are_refused(count):
    shown = type(count).__name__
    with pytest.raises(
        TypeError, match=rf"`forwards` must be a whole number, got {shown}\. Count samples on the host"
    ):
        ComputeUnits().update(count, 0)
    with pytest.raises(TypeError, match=rf"`backwards` must be a whole number, got {shown}\. Count samples"):
        ComputeUnits().update(0, count)


def test_negative_counts_are_refused():
    with pytest.raises(
        ValueError, match=r"`backwards` must be 0 or more, got -2\. Count samples on the host"
    ):
        ComputeUnits().update(1, -2)
