"""A prior and a new task, as every experiment needs them."""

from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

__all__ = ["Pairing"]


@dataclass(frozen=True)
class Pairing:
    """What a model can do already, and what it is to learn.

    Args:
        prior: Trains the base model; its loader gives batches of `pool`.
        new: Finetunes; its validation loader measures the new task.
        pool: Training samples of the prior task, which may be rehearsed.
        prior_val: Measures the prior task.
    """

    prior: LightningDataModule
    new: LightningDataModule
    pool: Dataset[Any]
    prior_val: DataLoader[Any]
