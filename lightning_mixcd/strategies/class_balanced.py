"""Rehearse every class alike."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional._chunks import Bins
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions import ByLabel, Partition
from lightning_mixcd.strategies._binned import BinnedStrategy
from lightning_mixcd.strategies._needs import given

__all__ = ["ClassBalanced"]


class ClassBalanced(BinnedStrategy):
    """Every class alike, every sample of a class alike: P(i) is proportional to 1 / size of the class of i.

    A class that is used up within one draw leaves its share to the others. Of `Streams`, each is a class, and
    there is no partition.

    Args:
        partition: What counts as a class, `ByLabel()` if None; `ByColumn("source")` balances sources.

    Raises:
        TypeError: If `partition` is none.
        LedgerError: At the start of `fit`, if the ledger lacks the partition's column.

    Example:
        >>> ledger = Ledger.from_arrays(correct=[True] * 3, loss=[0.1] * 3, label=[0, 0, 1])
        >>> strategy = ClassBalanced()
        >>> strategy.setup(3, ledger, seed=0)
        >>> strategy.probabilities(None)
        tensor([0.5000, 0.5000], dtype=torch.float64)
    """

    needs_ledger = True

    def __init__(self, partition: Partition | None = None) -> None:
        if not isinstance(partition, Partition | None):
            raise TypeError(
                f"`partition` must be a `Partition`, got {partition!r}. Pass for example ByLabel()."
            )
        self.partition = partition or ByLabel()
        self._partition_given = partition is not None
        self.needs_columns = self.partition.needs_columns

    @override
    def assign(self, n_pool: int, ledger: Ledger | None) -> tuple[Bins, int]:
        bins = self.partition.bins(given(ledger))
        return bins, int(bins.max()) + 1

    @override
    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:
        if self._partition_given:
            raise ValueError(
                f"`partition` must be left out for `Streams`, got {self.partition!r}. Each stream is a class."
            )
        super().setup_streams(sizes, seed=seed)

    @override
    def probabilities(self, signal: Tensor | None) -> Tensor:
        return torch.full((len(self.sizes),), 1 / len(self.sizes), dtype=torch.float64)
