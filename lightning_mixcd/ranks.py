"""The processes that share out the data."""

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor

from lightning_mixcd.data.host_copy import to_device
from lightning_mixcd.data.order import shares

__all__ = ["Ranks"]


class Ranks:
    """All processes; or one of each group that works on the same batch, as under tensor parallelism.

    Args:
        trainer: The trainer, after its processes have met.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._strategy = trainer.strategy
        self.size, self.rank = shares(trainer)
        self._group: torch.distributed.ProcessGroup | None = None
        if isinstance(self._strategy, ModelParallelStrategy):
            self._group = self._strategy.device_mesh["data_parallel"].get_group()

    def reduce(self, tensor: Tensor, *, how: str) -> Tensor:
        """Reduce a tensor over the ranks; nothing waits for it.

        Args:
            tensor: The tensor, on the host or on the device of training; it may be changed in place.
            how: "sum" or "max".

        Returns:
            The sum or maximum, on the device.
        """
        if self.size == 1:
            return tensor
        tensor = to_device(tensor, self._strategy.root_device)
        reduced: Tensor = self._strategy.reduce(tensor, self._group, reduce_op=how)
        return reduced

    def total(self, number: int) -> int | Tensor:
        """Return the sum of a number over the ranks.

        Args:
            number: This rank's.

        Returns:
            The sum; where there are several ranks, on the device, so that nothing waits for it.
        """
        return number if self.size == 1 else self.reduce(torch.tensor(number), how="sum")

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all ranks.

        Args:
            tensor: One of the same shape on each rank, `(...)`.

        Returns:
            All of them on the host, `(W, ...)`.
        """
        if self.size == 1:
            return tensor[None]
        tensor = tensor.to(self._strategy.root_device)
        gathered: Tensor = self._strategy.all_gather(tensor, group=self._group).cpu()
        return gathered

    def gather_each(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the tensors of each rank, of whatever names and shapes; waits, so not for the step path.

        Args:
            tensors: This rank's, on the host.

        Returns:
            Those of all ranks, in their order.
        """
        gathered = [tensors] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(gathered, tensors, group=self._group)
        return gathered
