"""The contract of a partition."""

from abc import ABC, abstractmethod

import numpy as np

from lightning_mixcd.functional._chunks import Bins, bin_dtype, bin_sizes
from lightning_mixcd.ledger.ledger import Ledger

__all__ = ["Bins", "Partition"]


class Partition(ABC):
    """Assigns every pool sample to one of K bins, once, before training.

    A good partition gathers samples that are damaged at about the same rate. What it goes by is in the
    ledger: correctness, loss, and any further column.

    Attributes:
        needs_columns: Columns that the ledger must have, besides `correct` and `loss`.
    """

    needs_columns: tuple[str, ...] = ()

    @abstractmethod
    def assign(self, ledger: Ledger) -> Bins:
        """Return the bin of each pool sample; the same ledger always gives the same bins.

        Args:
            ledger: The base model's record of the pool, size N.

        Returns:
            Whole numbers of any type, `(N,)`, from 0 to K-1, each used by at least one sample.
        """

    def bins(self, ledger: Ledger) -> Bins:
        """Assign and check.

        Args:
            ledger: The base model's record of the pool, size N.

        Returns:
            What `assign` returned, in the smallest signed type that holds it. Convert it before computing
            with it, else numbers may run over.

        Raises:
            ValueError: If the bins are of another shape or kind, or one has no member.
        """
        bins = np.asarray(self.assign(ledger))
        name = type(self).__name__
        if bins.shape != (ledger.size,) or bins.dtype.kind not in "iu":
            raise ValueError(
                f"`{name}.assign` must return whole numbers of shape ({ledger.size},), one bin per pool "
                f"sample, got {bins.dtype} of shape {bins.shape}."
            )
        if bins.min() < 0:
            raise ValueError(f"`{name}.assign` must number bins from 0, got {bins.min()}.")
        n_bins = int(bins.max()) + 1
        bins = bins.astype(bin_dtype(n_bins), copy=False)
        empty = np.flatnonzero(bin_sizes(bins, n_bins) == 0)
        if empty.size:
            raise ValueError(
                f"`{name}.assign` left bins {empty[:5].tolist()} with no member. "
                "Number only bins that exist: `numpy.unique(bins, return_inverse=True)[1]` does."
            )
        return bins
