"""How much accuracy was lost."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.flips import _forgetting_compute
from lightning_mixcd.metrics.base import FlipMetric

__all__ = ["Forgetting"]


class Forgetting(FlipMetric):
    """Accuracy of the base model minus accuracy now.

    In [-1, 1], below 0 if the model got better; see `lightning_mixcd.functional.flips.forgetting`.
    NaN before the first sample.

    Example:
        >>> import torch
        >>> metric = Forgetting()
        >>> base_correct = torch.tensor([True, True, True, True, False])
        >>> metric.update(base_correct, torch.tensor([True, True, True, False, True]))
        >>> metric.compute()
        tensor(0.)
    """

    higher_is_better = False

    @override
    def compute(self) -> Tensor:
        return _forgetting_compute(self.table)
