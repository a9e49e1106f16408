"""The share in the last batch that held the bin."""

import torch

from lightning_mixcd.estimators import LastBatch


def test_each_bin_has_the_share_of_its_own_last_batch():
    estimator = LastBatch()
    estimator.reset(3)
    assert estimator.rates().tolist() == [1, 1, 1]
    estimator.update(torch.tensor([1.0, 3.0, 0.0]), torch.tensor([2.0, 4.0, 0.0]), steps=1)
    assert estimator.rates().tolist() == [0.5, 0.75, 1]
    estimator.update(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([5.0, 0.0, 1.0]), steps=1)
    assert estimator.rates().tolist() == [0, 0.75, 1]
