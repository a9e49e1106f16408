"""A prior and a new task, as every experiment needs them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lightning_mixcd.data import Pool

__all__ = ["Pairing"]


@dataclass(frozen=True)
class Pairing:
    """What a model can do already, and what it is to learn.

    Args:
        prior: Trains the base model; its loader gives batches of `pool`.
        new: Finetunes; its validation loader measures the new task.
        pool: Training samples of the prior task, which may be rehearsed; a `Pool` where they are collated in
            a way of their own.
        prior_val: Measures the prior task.
        columns: What else is known of the pool samples, such as a domain: name to values, `(N,)` each. The
            ledger keeps them for partitions.
    """

    prior: LightningDataModule
    new: LightningDataModule
    pool: Dataset[Any] | Pool
    prior_val: DataLoader[Any]
    columns: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
