"""Loaders of samples that are in memory."""

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

__all__ = ["TensorDataModule"]


class TensorDataModule(LightningDataModule):
    """Loaders of one task whose samples are in memory.

    Args:
        train: Set to train on, in another order each epoch.
        val: Set to validate on.
        batch_size: Samples per training batch.

    Example:
        >>> import torch
        >>> samples = TensorDataset(torch.zeros(350, 2), torch.zeros(350, dtype=torch.long))
        >>> data = TensorDataModule(samples, samples)
        >>> len(data.train_dataloader()), len(data.val_dataloader())
        (11, 1)
    """

    def __init__(self, train: TensorDataset, val: TensorDataset, *, batch_size: int = 32) -> None:
        super().__init__()
        self.train, self.val, self.batch_size = train, val, batch_size

    @override
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, batch_size=1024)
