"""No memory beyond the last batch, for comparison."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.estimators.base import Estimator

__all__ = ["LastBatch"]


class LastBatch(Estimator):
    """Share of damaged samples in the last update that held the bin: with `Pool(lag=1)`, the last batch.

    A bin never seen counts as rate 1, so that it is tried. Follows change at once and is noisy: with a few
    samples per bin and step the rate is nearly always 0 or 1.

    Example:
        >>> estimator = LastBatch()
        >>> estimator.reset(2)
        >>> estimator.update(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]), steps=1)
        >>> estimator.update(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), steps=1)
        >>> estimator.rates()
        tensor([0.5000, 1.0000])
    """

    STATE = ("last",)

    def __init__(self) -> None:
        self.reset(1)

    @override
    def reset(self, n_bins: int) -> None:
        self.last = torch.ones(n_bins, dtype=torch.float32)

    @override
    def update(self, damaged: Tensor, seen: Tensor, *, steps: float) -> None:
        self.last = torch.where(seen > 0, damaged / seen.clamp(min=1), self.last.to(seen.device))

    @override
    def rates(self) -> Tensor:
        return self.last
