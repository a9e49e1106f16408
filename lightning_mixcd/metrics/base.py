"""Base of the metrics that compare a model with the base model."""

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_mixcd.functional.flips import flip_table

__all__ = ["FlipMetric"]


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
