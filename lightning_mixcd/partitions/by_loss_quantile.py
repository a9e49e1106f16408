"""Bins by how hard the base model found a sample."""

import numpy as np
from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions.base import Bins, Partition

__all__ = ["ByLossQuantile"]


class ByLossQuantile(Partition):
    """Bins of equal size over the base-correct samples, by the base model's loss.

    Samples with equal loss are told apart by pool index, never by value: a confident base model has many
    losses near 0, and edges by value would merge the lowest bins. Base-wrong samples go where their loss
    would fall.

    Args:
        n_bins: Number of bins, at least 1.

    Raises:
        ValueError: If `n_bins` is below 1, or above the number of base-correct samples.

    Example:
        >>> ledger = Ledger.from_arrays(correct=[True] * 4, loss=[0.0, 0.0, 0.7, 0.2])
        >>> ByLossQuantile(2).bins(ledger).tolist()
        [0, 0, 1, 1]
    """

    def __init__(self, n_bins: int = 10) -> None:
        if n_bins < 1:
            raise ValueError(f"`n_bins` must be at least 1, got {n_bins}. The default is 10.")
        self.n_bins = n_bins

    @override
    def assign(self, ledger: Ledger) -> Bins:
        correct, loss = np.asarray(ledger.correct), np.asarray(ledger.loss)
        n = int(correct.sum())
        if n < self.n_bins:
            raise ValueError(
                f"`n_bins` ({self.n_bins}) must be at most the number of base-correct samples ({n}), "
                f"else a bin has no member. Use `ByLossQuantile({max(n, 1)})` or fewer bins."
            )
        order = np.argsort(loss[correct], kind="stable")
        bins = np.empty(ledger.size, dtype=np.int64)
        ranked = np.arange(n) * self.n_bins // n
        bins[np.flatnonzero(correct)[order]] = ranked
        place = np.searchsorted(loss[correct][order], loss[~correct])
        bins[~correct] = ranked[np.minimum(place, n - 1)]
        return bins
