"""Bins by how hard the base model found a sample."""

import numpy as np
from typing_extensions import override

from lightning_mixcd.errors import check_counts
from lightning_mixcd.functional._chunks import bin_dtype, chunks, places
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
        column: Name of a ledger column that is taken instead of the loss, such as `influence`; finite
            numbers, `(N,)`.

    Raises:
        ValueError: If `n_bins` is below 1, or above the number of base-correct samples, or the column holds
            anything else.

    Example:
        >>> ledger = Ledger.from_arrays(correct=[True] * 4, loss=[0.0, 0.0, 0.7, 0.2])
        >>> ByLossQuantile(2).bins(ledger).tolist()
        [0, 0, 1, 1]
    """

    def __init__(self, n_bins: int = 10, *, column: str = "loss") -> None:
        check_counts("The default is 10.", n_bins=n_bins)
        self.n_bins, self.column, self.needs_columns = n_bins, column, (column,)

    @override
    def assign(self, ledger: Ledger) -> Bins:
        correct, loss = np.asarray(ledger.correct), np.asarray(ledger.column(self.column))
        numbers = loss.ndim == 1 and loss.dtype.kind in "iuf"
        if not numbers or not all(np.isfinite(loss[rows]).all() for rows in chunks(ledger.size)):
            raise ValueError(
                f"`column` must name finite numbers, one per sample, but {self.column!r} has dtype "
                f"{loss.dtype} and shape {loss.shape}, or holds NaN. Use `ByColumn` for strings and flags."
            )
        n = int(np.count_nonzero(correct))
        if n < self.n_bins:
            raise ValueError(
                f"`n_bins` ({self.n_bins}) must be at most the number of base-correct samples ({n}), "
                f"else a bin has no member. Use `ByLossQuantile({max(n, 1)})` or fewer bins."
            )
        ranked = loss[correct]
        ranked.sort()
        # A bin begins at the first rank with rank * n_bins // n equal to its number.
        starts = -(-np.arange(1, self.n_bins) * n // self.n_bins)
        edges, below = ranked[starts], ranked[starts - 1]
        tied = np.unique(edges)
        free = ranked.searchsorted(tied)
        del ranked
        bins = np.empty(ledger.size, dtype=bin_dtype(self.n_bins))
        for rows in chunks(ledger.size):
            right, here = correct[rows], loss[rows]
            bins[rows] = np.where(right, edges.searchsorted(here), below.searchsorted(here))
            # Samples with the loss of an edge lie on either side of it, by rank.
            on_edge = np.flatnonzero(right & np.isin(here, tied))
            ranks = places(tied.searchsorted(here[on_edge]), free)
            bins[rows][on_edge] = ranks * self.n_bins // n
        return bins
