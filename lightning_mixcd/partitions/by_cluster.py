"""Bins by what a sample looks like to the base model."""

import numpy as np
from typing_extensions import override

from lightning_mixcd.errors import check_counts, check_whole
from lightning_mixcd.functional._chunks import bin_dtype, chunks
from lightning_mixcd.functional.sampling import permute, stream_key
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions._number import number
from lightning_mixcd.partitions.base import Bins, Partition

__all__ = ["ByCluster"]

FITTED_ROWS, FITTED_ROWS_PER_BIN = 1 << 16, 256
CHUNK_NUMBERS = 1 << 22


class ByCluster(Partition):
    """Bins are k-means clusters of a feature column of the ledger.

    Uses scikit-learn's `MiniBatchKMeans` (extra `demo`). Of a large pool, a random sample decides where the
    clusters are: 65,536 samples, or 256 per cluster if that is more.

    Args:
        n_bins: Number of clusters, at least 1; clusters that come out empty are left out.
        column: Name of the feature column, float, `(N, d)`.
        seed: Seed of the clustering.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If `n_bins` is out of range, or the column is not `(N, d)` numbers.

    Example:
        >>> features = [[0.0, 0.1], [5.0, 5.0], [0.1, 0.0]]
        >>> ledger = Ledger.from_arrays(correct=[True] * 3, loss=[0.1] * 3, features=features)
        >>> a, b, c = ByCluster(2).bins(ledger)
        >>> bool(a == c != b)
        True
    """

    def __init__(self, n_bins: int = 10, *, column: str = "features", seed: int = 0) -> None:
        check_counts("The default is 10.", n_bins=n_bins)
        check_whole(seed=seed)
        self.n_bins, self.column, self.seed = n_bins, column, seed
        self.needs_columns = (column,)

    @override
    def assign(self, ledger: Ledger) -> Bins:
        try:
            from sklearn.cluster import MiniBatchKMeans
        except ImportError as error:
            raise ImportError(
                "`ByCluster` needs scikit-learn. Install it with `pip install 'lightning-mixcd[demo]'`."
            ) from error

        features = ledger.column(self.column)
        if features.ndim != 2 or features.dtype.kind != "f":
            raise ValueError(
                f"`column` must name features of shape (N, d), but {self.column!r} has dtype "
                f"{features.dtype} and shape {features.shape}. Use `ByColumn` for one value per sample."
            )
        if self.n_bins > ledger.size:
            raise ValueError(
                f"`n_bins` ({self.n_bins}) must be at most the pool's size ({ledger.size}). Lower it."
            )
        kmeans = MiniBatchKMeans(self.n_bins, n_init=3, random_state=self.seed % 2**32)
        n_fitted = min(ledger.size, max(FITTED_ROWS, FITTED_ROWS_PER_BIN * self.n_bins))
        fitted = np.sort(permute(np.arange(n_fitted), ledger.size, stream_key(self.seed)))
        kmeans.fit(features[fitted].astype(np.float32))
        clusters = np.empty(ledger.size, dtype=bin_dtype(self.n_bins))
        for rows in chunks(ledger.size, size=max(1, CHUNK_NUMBERS // features.shape[1])):
            clusters[rows] = kmeans.predict(features[rows].astype(np.float32))
        return number(clusters.__getitem__, ledger.size)
