"""All samples in one bin."""

import numpy as np
from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions.base import Bins, Partition

__all__ = ["Single"]


class Single(Partition):
    """Put all samples into one bin, which makes mix-cd uniform over the samples it may draw.

    Example:
        >>> Single().bins(Ledger.from_arrays(correct=[True, False], loss=[0.1, 2.0])).tolist()
        [0, 0]
    """

    @override
    def assign(self, ledger: Ledger) -> Bins:
        return np.zeros(ledger.size, dtype=np.int8)
