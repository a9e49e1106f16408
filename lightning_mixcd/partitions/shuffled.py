"""A control: bins that mean nothing."""

import numpy as np
from typing_extensions import override

from lightning_mixcd.errors import check_whole
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions.base import Bins, Partition

__all__ = ["Shuffled"]


class Shuffled(Partition):
    """Another partition's bins, dealt out at random among the samples.

    Sizes stay as they are, also among base-correct samples alone, but the bins no longer tell anything about
    damage. mix-cd over them must do as uniform over correct does; what it gains over this control, it gains
    from the partition.

    Args:
        partition: The partition whose bins are dealt out.
        seed: Seed of the deal.

    Example:
        >>> from lightning_mixcd.partitions import ByLabel
        >>> ledger = Ledger.from_arrays(correct=[True] * 4, loss=[0.1] * 4, label=[0, 0, 1, 1])
        >>> sorted(Shuffled(ByLabel()).bins(ledger).tolist())
        [0, 0, 1, 1]
    """

    def __init__(self, partition: Partition, *, seed: int = 0) -> None:
        if not isinstance(partition, Partition):
            raise TypeError(
                f"`partition` must be a `Partition`, got {partition!r}. Pass for example ByLabel()."
            )
        check_whole(seed=seed)
        self.partition, self.seed = partition, seed
        self.needs_columns = partition.needs_columns

    @override
    def assign(self, ledger: Ledger) -> Bins:
        bins = self.partition.bins(ledger).copy()
        rng = np.random.default_rng(self.seed % 2**64)
        for group in (ledger.correct, ~ledger.correct):
            bins[group] = rng.permutation(bins[group])
        return bins
