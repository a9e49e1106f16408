"""Scores of a model that learns one task after another."""

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from lightning_mixcd.functional.task_matrix import (
    backward_transfer,
    final_accuracy,
    forward_transfer,
    mean_accuracy,
    stage_forgetting,
    transfer_accuracy,
)

__all__ = [
    "BackwardTransfer",
    "FinalAccuracy",
    "ForwardTransfer",
    "MeanAccuracy",
    "StageForgetting",
    "TaskMatrixMetric",
    "TransferAccuracy",
]


class TaskMatrixMetric(Metric):
    """A score of the task x stage matrix, from counts that are summed over batches and processes.

    Metrics of this kind share their state, so a `MetricCollection` updates it once for all of them. They
    outlive a `fit`: keep them outside of the module, or call `persistent(True)` to have them in checkpoints.
    To add one, give `compute` as a function of `accuracies`.

    Args:
        n_tasks: Number of tasks T; stage i learns task i.

    Attributes:
        right: Samples that were right, int64, `(T + 1, T)`: on task j after stage i; the last row is of the
            model before the first stage.
        seen: Samples likewise.

    Raises:
        ValueError: If there is no task.

    Example:
        >>> class FirstTask(TaskMatrixMetric):
        ...     def compute(self):
        ...         return self.accuracies[-1, 0]
        >>> metric = FirstTask(n_tasks=2)
        >>> metric.update(torch.tensor([True, True, False, True]), task=0, stage=1)
        >>> metric.compute()
        tensor(0.7500)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    right: Tensor
    seen: Tensor

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        if n_tasks < 1:
            raise ValueError(f"`n_tasks` must be at least 1, got {n_tasks}. Count the base model's task too.")
        self.n_tasks = n_tasks
        for name in ("right", "seen"):
            self.add_state(
                name, default=torch.zeros(n_tasks + 1, n_tasks, dtype=torch.int64), dist_reduce_fx="sum"
            )

    @override
    def update(self, correct: Tensor, *, task: int, stage: int | None) -> None:
        """Add a batch.

        Args:
            correct: Whether the model has each sample right, bool, `(N,)`.
            task: Which task the samples are of, from 0.
            stage: Which stage the model has just been through, from 0; None before the first.

        Raises:
            TypeError: If `correct` is not a bool tensor.
            ValueError: If there is no such task or stage.
        """
        if correct.dtype != torch.bool:
            raise TypeError(
                f"`correct` must be a bool tensor, got {correct.dtype}. Compare predictions with labels: "
                "`logits.argmax(1) == label`."
            )
        for name, given in (("task", task), ("stage", 0 if stage is None else stage)):
            if not 0 <= given < self.n_tasks:
                raise ValueError(
                    f"`{name}` must be in 0 .. {self.n_tasks - 1}, got {given}. Raise `n_tasks`, or count "
                    "from 0; the model before the first stage is `stage=None`."
                )
        cell = torch.zeros_like(self.seen)
        cell[self.n_tasks if stage is None else stage, task] = 1
        # Not in place: a reset in inference mode leaves a state that may not be changed outside of it.
        self.right = self.right + cell * correct.sum()
        self.seen = self.seen + cell * correct.numel()

    @property
    def accuracies(self) -> Tensor:
        """Accuracy on task j after stage i, float32, `(T, T)`; NaN where nothing was measured."""
        return (self.right / self.seen)[:-1]

    @property
    def initial(self) -> Tensor:
        """Accuracy on task j before the first stage, float32, `(T,)`; NaN where nothing was measured."""
        return (self.right / self.seen)[-1]

    @abstractmethod
    @override
    def compute(self) -> Tensor:
        """Compute the score from the counts so far.

        Returns:
            The score, float32 scalar; NaN until all that it goes by has been measured.
        """


class FinalAccuracy(TaskMatrixMetric):
    """Mean accuracy over all tasks after the last stage: "average accuracy", or "Last".

    See `lightning_mixcd.functional.task_matrix.final_accuracy`.

    Example:
        >>> metric = FinalAccuracy(n_tasks=2)
        >>> metric.update(torch.tensor([True, False]), task=0, stage=1)
        >>> metric.update(torch.tensor([True, True]), task=1, stage=1)
        >>> metric.compute()
        tensor(0.7500)
    """

    @override
    def compute(self) -> Tensor:
        return final_accuracy(self.accuracies)


class MeanAccuracy(TaskMatrixMetric):
    """Mean accuracy over all tasks and stages: "Avg" of ZSCL (arXiv:2303.06628).

    See `lightning_mixcd.functional.task_matrix.mean_accuracy`.

    Example:
        >>> metric = MeanAccuracy(n_tasks=2)
        >>> for stage in range(2):
        ...     metric.update(torch.tensor([True, stage == 0]), task=0, stage=stage)
        ...     metric.update(torch.tensor([stage == 1, False]), task=1, stage=stage)
        >>> metric.compute()
        tensor(0.5000)
    """

    @override
    def compute(self) -> Tensor:
        return mean_accuracy(self.accuracies)


class TransferAccuracy(TaskMatrixMetric):
    """Mean accuracy on tasks that are still to be learnt: "Transfer" of ZSCL (arXiv:2303.06628).

    See `lightning_mixcd.functional.task_matrix.transfer_accuracy`.

    Example:
        >>> metric = TransferAccuracy(n_tasks=2)
        >>> metric.update(torch.tensor([True, False, False, False]), task=1, stage=0)
        >>> metric.compute()
        tensor(0.2500)
    """

    @override
    def compute(self) -> Tensor:
        return transfer_accuracy(self.accuracies)


class StageForgetting(TaskMatrixMetric):
    """By how much accuracy fell below the best after an earlier stage (arXiv:1801.10112).

    See `lightning_mixcd.functional.task_matrix.stage_forgetting`.

    Example:
        >>> metric = StageForgetting(n_tasks=2)
        >>> metric.update(torch.tensor([True, True]), task=0, stage=0)
        >>> metric.update(torch.tensor([True, False]), task=0, stage=1)
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = False

    @override
    def compute(self) -> Tensor:
        return stage_forgetting(self.accuracies)


class BackwardTransfer(TaskMatrixMetric):
    """Accuracy at the end minus accuracy when a task was learnt (arXiv:1706.08840).

    See `lightning_mixcd.functional.task_matrix.backward_transfer`.

    Example:
        >>> metric = BackwardTransfer(n_tasks=2)
        >>> metric.update(torch.tensor([True, True]), task=0, stage=0)
        >>> metric.update(torch.tensor([True, False]), task=0, stage=1)
        >>> metric.compute()
        tensor(-0.5000)
    """

    @override
    def compute(self) -> Tensor:
        return backward_transfer(self.accuracies)


class ForwardTransfer(TaskMatrixMetric):
    """Accuracy on a task just before it is learnt, minus before the first stage (arXiv:1706.08840).

    See `lightning_mixcd.functional.task_matrix.forward_transfer`.

    Example:
        >>> metric = ForwardTransfer(n_tasks=2)
        >>> metric.update(torch.tensor([False, False]), task=1, stage=None)
        >>> metric.update(torch.tensor([True, False]), task=1, stage=0)
        >>> metric.compute()
        tensor(0.5000)
    """

    @override
    def compute(self) -> Tensor:
        return forward_transfer(self.accuracies, self.initial)
