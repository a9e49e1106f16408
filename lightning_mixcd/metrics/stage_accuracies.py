"""How much a model can do that learns one task after another."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.task_matrix import final_accuracy, mean_accuracy, transfer_accuracy
from lightning_mixcd.metrics.task_matrix import TaskMatrixMetric

__all__ = ["FinalAccuracy", "MeanAccuracy", "TransferAccuracy"]


class FinalAccuracy(TaskMatrixMetric):
    """Mean accuracy over all tasks after the last stage: "average accuracy", or "Last".

    See `lightning_mixcd.functional.task_matrix.final_accuracy`.

    Args:
        n_tasks: Number of tasks.

    Example:
        >>> import torch
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

    Args:
        n_tasks: Number of tasks.

    Example:
        >>> import torch
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

    Args:
        n_tasks: Number of tasks.

    Example:
        >>> import torch
        >>> metric = TransferAccuracy(n_tasks=2)
        >>> metric.update(torch.tensor([True, False, False, False]), task=1, stage=0)
        >>> metric.compute()
        tensor(0.2500)
    """

    @override
    def compute(self) -> Tensor:
        return transfer_accuracy(self.accuracies)
