"""The plain ratio."""

import torch

from lightning_mixcd.estimators import RunningMean


def started(n_bins):
    estimator = RunningMean()
    estimator.reset(n_bins)
    return estimator


def test_share_of_all_samples_since_the_start():
    estimator = started(3)
    estimator.update(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([4.0, 2.0, 0.0]), steps=1)
    estimator.update(torch.tensor([2.0, 1.0, 0.0]), torch.tensor([4.0, 2.0, 0.0]), steps=1000)
    assert estimator.rates().tolist() == [3 / 8, 1 / 4, 1]


def test_undamaged_so_far_is_zero():
    estimator = started(1)
    estimator.update(torch.zeros(1), torch.full((1,), 20.0), steps=1)
    assert estimator.rates().tolist() == [0]
