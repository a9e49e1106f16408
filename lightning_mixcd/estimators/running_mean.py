"""The plain ratio, for comparison."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.estimators.base import Estimator

__all__ = ["RunningMean"]


class RunningMean(Estimator):
    """Share of damaged samples among all rehearsed ones of a bin, since the start.

    A bin never seen counts as rate 1, so that it is tried. A bin whose first samples were all undamaged has
    rate 0 and, with `floor=0`, is never drawn again: this absorbing state makes the plain ratio worse than
    uniform rehearsal. It is here to show that; use `DecayedBeta`.

    Example:
        >>> estimator = RunningMean()
        >>> estimator.reset(2)
        >>> estimator.update(torch.tensor([1.0, 0.0]), torch.tensor([4.0, 0.0]), steps=1)
        >>> estimator.rates()
        tensor([0.2500, 1.0000])
    """

    STATE = ("damaged", "seen")

    def __init__(self) -> None:
        self.reset(1)

    @override
    def reset(self, n_bins: int) -> None:
        self.damaged, self.seen = (torch.zeros(n_bins, dtype=torch.float32) for _ in range(2))

    @override
    def update(self, damaged: Tensor, seen: Tensor, *, steps: float) -> None:
        self.damaged = self.damaged.to(damaged.device) + damaged
        self.seen = self.seen.to(seen.device) + seen

    @override
    def rates(self) -> Tensor:
        return torch.where(self.seen > 0, self.damaged / self.seen.clamp(min=1), 1.0)
