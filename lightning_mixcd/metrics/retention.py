"""How much of what the base model had right is still right."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.flips import _retention_compute
from lightning_mixcd.metrics.base import FlipMetric

__all__ = ["Retention"]


class Retention(FlipMetric):
    """Share of what the base model had right that is still right.

    `(base right, now right) / (base right)`, in [0, 1]; see `lightning_mixcd.functional.flips.retention`.
    NaN until the base model had a sample right.

    Example:
        >>> import torch
        >>> metric = Retention()
        >>> base_correct = torch.tensor([True, True, True, True, False])
        >>> metric.update(base_correct, torch.tensor([True, True, True, False, True]))
        >>> metric.compute()
        tensor(0.7500)
    """

    higher_is_better = True

    @override
    def compute(self) -> Tensor:
        return _retention_compute(self.table)
