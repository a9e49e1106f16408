"""Rows due, against exact fractions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.data.ration import Ration

ratios = st.one_of(st.sampled_from([0.1, 0.25, 0.3, 1 / 3, 1, 2.5, 16]), st.floats(1e-3, 16))


@given(ratios, st.lists(st.integers(0, 200), max_size=30))
def test_rows_so_far_are_the_ratio_rounded_down(ratio, batches):
    ration, finetune, given_rows = Ration(ratio), 0, 0
    for rows in batches:
        due = ration.due(rows)
        finetune, given_rows = finetune + rows, given_rows + due
        assert due >= 0
        assert given_rows == math.floor(Fraction(repr(ratio)) * finetune)


def test_a_tenth_is_a_tenth():
    ration = Ration(0.1)
    assert [ration.due(1) for _ in range(30)] == ([0] * 9 + [1]) * 3


def test_parts_of_a_row_are_carried_over():
    ration = Ration(0.75)
    assert [ration.due(3) for _ in range(8)] == [2, 2, 2, 3] * 2


@given(ratios, st.lists(st.integers(0, 50), max_size=10), st.lists(st.integers(0, 50), max_size=10))
def test_resumed_ration_goes_on(ratio, before, after):
    whole, resumed = Ration(ratio), Ration(ratio)
    for rows in before:
        whole.due(rows)
    resumed.load_state_dict(whole.state_dict())
    assert [whole.due(rows) for rows in after] == [resumed.due(rows) for rows in after]


@pytest.mark.parametrize("ratio", [0, -0.5, 16.01, math.inf, math.nan])
def test_ratio_out_of_range_is_refused(ratio):
    message = (
        rf"`mix_ratio` must be above 0 and at most 16 .*, got {ratio}\. Use the strategy `NoRehearsal\(\)`"
    )
    with pytest.raises(ValueError, match=message):
        Ration(ratio)
