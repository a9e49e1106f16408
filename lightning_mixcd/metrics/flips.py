"""Rates of flips between the base model and the model now."""

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_mixcd.functional.flips import (
    _collateral_damage_rate_compute,
    _forgetting_compute,
    _negative_flip_rate_compute,
    _positive_flip_rate_compute,
    _retention_compute,
    flip_table,
)

__all__ = [
    "CollateralDamageRate",
    "FlipMetric",
    "Forgetting",
    "NegativeFlipRate",
    "PositiveFlipRate",
    "Retention",
]


class FlipMetric(Metric):
    """A rate of flips, computed from one table of counts that is summed over batches and processes.

    Metrics of this kind share their state, so a `MetricCollection` updates it once for all of them.
    To add one, give `compute` as a function of `table`.

    Attributes:
        table: Counts, int64, `(2, 2)`: `table[base, now]`, where 0 is wrong and 1 is right.

    Example:
        >>> class Unchanged(FlipMetric):
        ...     def compute(self):
        ...         return self.table.trace() / self.table.sum()
        >>> metric = Unchanged()
        >>> metric.update(torch.tensor([True, True]), torch.tensor([True, False]))
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    full_state_update = False
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("table", default=torch.zeros(2, 2, dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, base_correct: Tensor, correct: Tensor) -> None:
        """Add a batch.

        Args:
            base_correct: Whether the base model had each sample right, bool, `(N,)`.
            correct: Whether the model has it right now, bool, `(N,)`.
        """
        # Not in place: a reset in inference mode leaves a state that may not be changed outside of it.
        self.table = self.table + flip_table(base_correct, correct)

    @abstractmethod
    @override
    def compute(self) -> Tensor:
        """Compute the rate from the counts so far.

        Returns:
            The rate, float32 scalar.
        """


class CollateralDamageRate(FlipMetric):
    """Share of what the base model had right that is wrong now (arXiv:2402.08096).

    `(base right, now wrong) / (base right)`, in [0, 1]; see
    `lightning_mixcd.functional.flips.collateral_damage_rate`. NaN until the base model had a sample right.

    Example:
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


class Retention(FlipMetric):
    """Share of what the base model had right that is still right.

    `(base right, now right) / (base right)`, in [0, 1]; see `lightning_mixcd.functional.flips.retention`.
    NaN until the base model had a sample right.

    Example:
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


class NegativeFlipRate(FlipMetric):
    """Share of all samples that went from right to wrong (arXiv:2011.09161).

    `(base right, now wrong) / N`, in [0, 1]; see `lightning_mixcd.functional.flips.negative_flip_rate`.
    NaN before the first sample.

    Example:
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


class Forgetting(FlipMetric):
    """Accuracy of the base model minus accuracy now.

    In [-1, 1], below 0 if the model got better; see `lightning_mixcd.functional.flips.forgetting`.
    NaN before the first sample.

    Example:
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
