"""Rates that stay."""

import math

import pytest
import torch

from lightning_mixcd.estimators import Static


def test_rates_stay_whatever_is_seen():
    estimator = Static([0.5, 0.25])
    estimator.reset(2)
    estimator.update(torch.ones(2), torch.ones(2), steps=5)
    assert estimator.rates().tolist() == [0.5, 0.25]
    assert estimator.state_dict() == {}


@pytest.mark.parametrize("rates", [[-0.1, 0.5], [1.5], [math.nan, 0.5], [math.inf], [0.0, 0.0], []])
def test_what_is_no_rate_is_refused(rates):
    with pytest.raises(
        ValueError, match=r"`rates` must be in \[0, 1\] and above 0 somewhere, got .*pilot run"
    ):
        Static(rates)


def test_other_number_of_bins_is_refused():
    with pytest.raises(
        ValueError, match=r"`rates` must have one value per bin \(3\), got 2\. Use a partition"
    ):
        Static([0.1, 0.2]).reset(3)
