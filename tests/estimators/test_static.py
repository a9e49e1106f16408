"""Rates that stay."""

import math

import numpy as np
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


@pytest.mark.parametrize("rates", ["2x", "0.5", 0.5, None])
def test_what_is_no_list_is_refused(rates):
    with pytest.raises(TypeError, match=r"`rates` must be a list of one rate per bin, got .*\. Pass"):
        Static(rates)


@pytest.mark.parametrize("rates", [["0.1", 0.4], [True, False], [[0.1], [0.2]], torch.ones(2, 1) / 2])
def test_rates_are_numbers(rates):
    with pytest.raises(TypeError, match=r"`rates` must be a number, got "):
        Static(rates)


@pytest.mark.parametrize("make", [tuple, torch.tensor, np.array, iter])
def test_rates_may_be_given_as_anything_that_holds_numbers(make):
    assert Static(make([0.5, 0.25])).rates().tolist() == [0.5, 0.25]


def test_other_number_of_bins_is_refused():
    with pytest.raises(
        ValueError, match=r"`rates` must have one value per bin \(3\), got 2\. Use a partition"
    ):
        Static([0.1, 0.2]).reset(3)
