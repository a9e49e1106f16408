"""The contract of a partition."""

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from lightning_mixcd.ledger.ledger import Ledger

__all__ = ["Bins", "Partition"]

Bins = npt.NDArray[np.int64]


class Partition(ABC):
    """Assigns every pool sample to one of K bins, once, before training.

    A good partition gathers samples that are damaged at about the same rate. What it goes by is in the
    ledger: correctness, loss, and any further column.
    """

    @abstractmethod
    def assign(self, ledger: Ledger) -> Bins:
        """Return the bin of each pool sample; the same ledger always gives the same bins.

        Args:
            ledger: The base model's record of the pool, size N.

        Returns:
            int64, `(N,)`, numbered 0 to K-1, each number used by at least one sample.
        """

    def bins(self, ledger: Ledger) -> Bins:
        """Assign and check.

        Args:
            ledger: The base model's record of the pool, size N.

        Returns:
            What `assign` returned.

        Raises:
            ValueError: If the bins have another shape or dtype, or one has no member.
        """
        bins = np.asarray(self.assign(ledger))
        name = type(self).__name__
        if bins.shape != (ledger.size,) or bins.dtype != np.int64:
            raise ValueError(
                f"`{name}.assign` must return int64 of shape ({ledger.size},), one bin per pool sample, "
                f"got {bins.dtype} of shape {bins.shape}."
            )
        if bins.min() < 0:
            raise ValueError(f"`{name}.assign` must number bins from 0, got {bins.min()}.")
        empty = np.flatnonzero(np.bincount(bins) == 0)
        if empty.size:
            raise ValueError(
                f"`{name}.assign` left bins {empty[:5].tolist()} with no member. "
                "Number only bins that exist: `numpy.unique(bins, return_inverse=True)[1]` does."
            )
        return bins
