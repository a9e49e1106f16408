"""How many samples changed sides."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.flips import _negative_flip_rate_compute, _positive_flip_rate_compute
from lightning_mixcd.metrics.base import FlipMetric

__all__ = ["NegativeFlipRate", "PositiveFlipRate"]


class NegativeFlipRate(FlipMetric):
    """Share of all samples that went from right to wrong (arXiv:2011.09161).

    `(base right, now wrong) / N`, in [0, 1]; see `lightning_mixcd.functional.flips.negative_flip_rate`.
    NaN before the first sample.

    Example:
        >>> import torch
        >>> metric = NegativeFlipRate()
        >>> base_correct = torch.tensor([True, True, True, True, False])
        >>> metric.update(base_correct, torch.tensor([True, True, True, False, True]))
        >>> metric.compute()
        tensor(0.2000)
    """

    higher_is_better = False

    @override
    def compute(self) -> Tensor:
        return _negative_flip_rate_compute(self.table)


class PositiveFlipRate(FlipMetric):
    """Share of all samples that went from wrong to right (arXiv:2011.09161).

    `(base wrong, now right) / N`, in [0, 1]; see `lightning_mixcd.functional.flips.positive_flip_rate`.
    NaN before the first sample.

    Example:
        >>> import torch
        >>> metric = PositiveFlipRate()
        >>> base_correct = torch.tensor([True, True, True, True, False])
        >>> metric.update(base_correct, torch.tensor([True, True, True, False, True]))
        >>> metric.compute()
        tensor(0.2000)
    """

    higher_is_better = True

    @override
    def compute(self) -> Tensor:
        return _positive_flip_rate_compute(self.table)
