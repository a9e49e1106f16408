"""What the stages of a chain do to each other's tasks."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.task_matrix import backward_transfer, forward_transfer, stage_forgetting
from lightning_mixcd.metrics.task_matrix import TaskMatrixMetric

__all__ = ["BackwardTransfer", "ForwardTransfer", "StageForgetting"]


class StageForgetting(TaskMatrixMetric):
    """By how much accuracy fell below the best after an earlier stage (arXiv:1801.10112).

    See `lightning_mixcd.functional.task_matrix.stage_forgetting`.

    Args:
        n_tasks: Number of tasks.

    Example:
        >>> import torch
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

    Args:
        n_tasks: Number of tasks.

    Example:
        >>> import torch
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

    Args:
        n_tasks: Number of tasks.

    Example:
        >>> import torch
        >>> metric = ForwardTransfer(n_tasks=2)
        >>> metric.update(torch.tensor([False, False]), task=1, stage=None)
        >>> metric.update(torch.tensor([True, False]), task=1, stage=0)
        >>> metric.compute()
        tensor(0.5000)
    """

    @override
    def compute(self) -> Tensor:
        return forward_transfer(self.accuracies, self.initial)
