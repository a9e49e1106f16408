"""How much of what the base model had right is wrong now."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.flips import _collateral_damage_rate_compute
from lightning_mixcd.metrics.base import FlipMetric

__all__ = ["CollateralDamageRate"]


class CollateralDamageRate(FlipMetric):
    """Share of what the base model had right that is wrong now (arXiv:2402.08096).

    `(base right, now wrong) / (base right)`, in [0, 1]; see
    `lightning_mixcd.functional.flips.collateral_damage_rate`. NaN until the base model had a sample right.

    Example:
        >>> import torch
        >>> metric = CollateralDamageRate()
        >>> base_correct = torch.tensor([True, True, True, True, False])
        >>> metric.update(base_correct, torch.tensor([True, True, True, False, True]))
        >>> metric.compute()
        tensor(0.2500)
    """

    higher_is_better = False

    @override
    def compute(self) -> Tensor:
        return _collateral_damage_rate_compute(self.table)
