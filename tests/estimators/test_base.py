"""What the base does for every estimator."""

import torch

from lightning_mixcd.estimators import Estimator


class Two(Estimator):
    STATE = ("first", "second")

    def reset(self, n_bins):
        self.first, self.second, self.rest = torch.zeros(n_bins), torch.ones(n_bins), torch.ones(n_bins)

    def update(self, damaged, seen, *, steps):
        self.first, self.second, self.rest = damaged, seen, damaged + seen

    def rates(self):
        return self.first / self.second


def test_state_is_what_is_named():
    estimator, other = Two(), Two()
    estimator.reset(2)
    other.reset(2)
    estimator.update(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 2.0]), steps=1)
    assert {name: tensor.tolist() for name, tensor in estimator.state_dict().items()} == {
        "first": [1, 0],
        "second": [4, 2],
    }
    other.load_state_dict(estimator.state_dict())
    assert other.rates().tolist() == [0.25, 0]
    assert other.rest.tolist() == [1, 1]
