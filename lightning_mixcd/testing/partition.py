"""Conformance of partitions."""

import copy
from collections.abc import Callable

import numpy as np

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions.base import Partition
from lightning_mixcd.testing._support import factory, require, toys, untouched_chance

__all__ = ["check_partition"]


def check_partition(partition: Partition | Callable[[], Partition], *, ledger: Ledger | None = None) -> None:
    """Check that bins are well formed, depend on the ledger alone, and leave everything else as it was.

    Args:
        partition: The partition, or a function that makes one.
        ledger: What to assign bins to, if the partition needs columns of its own; else the toy ledgers, of
            which it may refuse any but the first with a `ValueError`.

    Raises:
        AssertionError: If a rule is broken; the message says which and how to keep it.

    Example:
        >>> from lightning_mixcd.partitions import ByLabel
        >>> check_partition(ByLabel())
    """
    make = factory(partition, Partition)  # type: ignore[type-abstract]  # only compared with
    name = type(make()).__name__
    with untouched_chance(name):
        for toy in toys(ledger, lambda toy: make().assign(toy), name):
            _check_bins(make(), toy, name)
            _check_repeatable(make(), toy, name)


def _check_bins(partition: Partition, ledger: Ledger, name: str) -> None:
    bins = partition.assign(ledger)
    require(
        isinstance(bins, np.ndarray) and bins.dtype.kind in "iu" and bins.shape == (ledger.size,),
        f"`{name}.assign` must return an array of whole numbers of shape ({ledger.size},), one bin per pool "
        f"sample, got {getattr(bins, 'dtype', type(bins).__name__)} of shape {getattr(bins, 'shape', None)}.",
    )
    used = np.unique(bins)
    require(
        np.array_equal(used, np.arange(len(used))),
        f"`{name}.assign` must number bins 0 to K-1 and use each number, got {used[:10].tolist()}. "
        "`numpy.unique(bins, return_inverse=True)[1]` numbers them so.",
    )


def _check_repeatable(partition: Partition, ledger: Ledger, name: str) -> None:
    untouched = copy.deepcopy(partition)
    bins = partition.assign(ledger).copy()
    same = np.array_equal(partition.assign(ledger), bins) and np.array_equal(untouched.assign(ledger), bins)
    require(
        same,
        f"`{name}.assign` must give the same bins for the same ledger each time, else a resumed run has "
        "other bins. Take a seed as an argument and make a generator from it inside `assign`.",
    )
