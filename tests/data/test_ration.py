"""Rows due, against exact fractions."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
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


shares = st.one_of(st.booleans(), st.sampled_from([0, 0.1, 0.25, 0.999, 1]), st.floats(0, 1))


@given(ratios, st.lists(st.tuples(st.integers(0, 200), shares), max_size=30))
def test_shares_of_the_ratio_are_summed_up_exactly(ratio, batches):
    ration, entitled, given_rows = Ration(ratio), Fraction(0), 0
    for rows, share in batches:
        due = ration.due(rows, share)
        entitled += Fraction(repr(ratio)) * rows * Fraction(f"{float(share):.6f}")
        given_rows += due
        assert 0 <= due <= ration.most(rows)
        assert given_rows == math.floor(entitled)


def test_steps_without_a_share_are_not_made_up_for():
    ration = Ration(0.5)
    assert [ration.due(3, share) for share in (1, False, 0.0, False, True, 1)] == [1, 0, 0, 0, 2, 1]


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_share_out_of_range_is_refused(share):
    message = rf"a share of the mix ratio in \[0, 1\], got {share}\. Raise `mix_ratio` to rehearse more"
    with pytest.raises(ValueError, match=message):
        Ration(0.5).due(4, share)


def test_a_tenth_is_a_tenth():
    ration = Ration(0.1)
    assert [ration.due(1) for _ in range(30)] == ([0] * 9 + [1]) * 3


def test_parts_of_a_row_are_carried_over():
    ration = Ration(0.75)
    assert [ration.due(3) for _ in range(8)] == [2, 2, 2, 3] * 2


steps = st.lists(st.tuples(st.integers(0, 50), shares), max_size=10)


@given(ratios, steps, steps)
def test_resumed_ration_goes_on(ratio, before, after):
    whole, resumed = Ration(ratio), Ration(ratio)
    for step in before:
        whole.due(*step)
    resumed.load_state_dict(whole.state_dict())
    assert [whole.due(*step) for step in after] == [resumed.due(*step) for step in after]


@given(ratios, ratios, steps, steps)
@example(0.25, 0.3, [(4, True)], [(0, True), (10, True)])
def test_another_ratio_holds_from_the_resume_on(before, after, earlier, later):
    first, resumed = Ration(before), Ration(after)
    for step in earlier:
        first.due(*step)
    resumed.load_state_dict(first.state_dict())
    dues = [resumed.due(*step) for step in later]
    assert min(dues, default=0) >= 0
    given = sum(dues)
    anew = Ration(after)
    expected = sum(anew.due(*step) for step in later)
    # Less than a row may have been left over from before.
    assert expected <= given <= expected + 1
    assert resumed.given_rows == first.given_rows + given


@pytest.mark.parametrize("ratio", [0, -0.5, 16.01, math.inf, math.nan])
def test_ratio_out_of_range_is_refused(ratio):
    message = (
        rf"`mix_ratio` must be above 0 and at most 16 .*, got {ratio}\. Use the strategy `NoRehearsal\(\)`"
    )
    with pytest.raises(ValueError, match=message):
        Ration(ratio)


@pytest.mark.parametrize("share", [torch.tensor(0.5), np.float32(0.5), np.bool_(True)])
def test_share_may_be_any_number(share):
    assert Ration(1).due(10, share) == 10 * float(share)


@pytest.mark.parametrize("share", [None, "much", "0.5", torch.ones(2)])
def test_schedule_that_returns_no_number_is_named(share):
    with pytest.raises(ValueError, match="A schedule must return a bool or a share of the mix ratio"):
        Ration(1).due(10, share)
