"""Base of the metrics of a model that learns one task after another."""

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

__all__ = ["TaskMatrixMetric"]


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
