"""Bins where several partitions cross."""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from typing_extensions import override

from lightning_mixcd.errors import check_whole
from lightning_mixcd.functional._chunks import bin_sizes
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions._number import number
from lightning_mixcd.partitions.base import Bins, Partition

__all__ = ["Product"]


class Product(Partition):
    """One bin per combination of bins that some sample is in.

    Args:
        parts: The partitions to cross, at least one.
        min_bin_size: Combinations with fewer samples that the base model got right are put together into one
            bin, because a rate cannot be learnt from a handful of them; 0 keeps them all.

    Raises:
        ValueError: If `parts` is empty.

    Example:
        >>> from lightning_mixcd.partitions import ByLabel, ByLossQuantile
        >>> ledger = Ledger.from_arrays(correct=[True] * 4, loss=[0.1, 0.2, 0.3, 0.4], label=[0, 1, 0, 1])
        >>> Product([ByLabel(), ByLossQuantile(2)]).bins(ledger).tolist()
        [0, 2, 1, 3]
    """

    def __init__(self, parts: Sequence[Partition], *, min_bin_size: int = 0) -> None:
        if not parts:
            raise ValueError("`parts` must hold a partition or more, got none. Use `Single()` for one bin.")
        if not all(isinstance(part, Partition) for part in parts):
            raise TypeError(f"`parts` must be partitions, got {parts!r}. Pass a list of them.")
        check_whole(min_bin_size=min_bin_size)
        self.parts, self.min_bin_size = tuple(parts), min_bin_size
        self.needs_columns = tuple({name: None for part in parts for name in part.needs_columns})

    @override
    def assign(self, ledger: Ledger) -> Bins:
        bins = reduce(_cross, (part.bins(ledger) for part in self.parts))
        n_bins = int(bins.max()) + 1
        small = bin_sizes(np.where(ledger.correct, bins, -1), n_bins) < self.min_bin_size
        merged = np.where(small, n_bins, np.arange(n_bins))
        return number(lambda rows: merged[bins[rows]], ledger.size) if small.any() else bins


def _cross(one: Bins, other: Bins) -> Bins:
    n_other = int(other.max()) + 1
    return number(lambda rows: one[rows].astype(np.int64) * n_other + other[rows], len(one))
