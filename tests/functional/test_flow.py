"""FLOW's weights, against the formula written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.functional.flow import flow_weights

losses = st.lists(st.floats(0, 30), min_size=1, max_size=9)


@given(losses, st.floats(0.1, 10))
def test_each_weight_is_the_formula(base_loss, tau):
    found = flow_weights(torch.tensor(base_loss, dtype=torch.float64), tau)
    assert found.tolist() == pytest.approx([math.exp(-loss / tau) for loss in base_loss])


@given(losses.filter(lambda values: len(values) % 2 == 1 and sorted(values)[len(values) // 2] > 1e-3))
def test_median_sample_has_the_weight_of_one_over_e(base_loss):
    found = flow_weights(torch.tensor(base_loss, dtype=torch.float64)).sort().values
    assert float(found[len(base_loss) // 2]) == pytest.approx(1 / math.e)
    assert ((found >= 0) & (found <= 1)).all()


def test_what_is_fitted_perfectly_by_most_alone_counts():
    assert flow_weights(torch.tensor([0.0, 0.0, 0.0, 1.0])).tolist() == [1, 1, 1, 0]


def test_unknown_base_loss_counts_for_nothing():
    assert flow_weights(torch.tensor([torch.nan, 1.0, 1.0])).tolist() == pytest.approx([
        0,
        1 / math.e,
        1 / math.e,
    ])


@pytest.mark.parametrize("tau", [None, 0.5])
def test_losses_below_zero_count_as_zero(tau):
    found = flow_weights(torch.tensor([-3.0, -0.1, 0.5, 1.0, torch.nan]), tau)
    assert torch.equal(found, flow_weights(torch.tensor([0.0, 0.0, 0.5, 1.0, torch.nan]), tau))
    assert found[:2].tolist() == [1, 1]
