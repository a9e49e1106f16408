"""Work on arrays as long as the pool, a chunk at a time, so that whatever is made on the way stays small.

NumPy's counting, sorting and indexing by a small integer type all make 8 bytes per element first.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Bins", "bin_dtype", "bin_sizes", "chunks", "places"]

Bins: TypeAlias = npt.NDArray[np.integer[Any]]

CHUNK = 1 << 18


def chunks(n: int, size: int | None = None) -> Iterator[slice]:
    """Cut `range(n)` into slices, all of one size but the last.

    Args:
        n: Number of rows.
        size: Rows of a chunk; about 260,000 if None.

    Yields:
        Slices, in order.

    Example:
        >>> [range(5)[rows] for rows in chunks(5, size=3)]
        [range(0, 3), range(3, 5)]
    """
    size = size or CHUNK
    yield from (slice(start, min(start + size, n)) for start in range(0, n, size))


def bin_dtype(n_bins: int) -> np.dtype[Any]:
    """Return the smallest signed type that holds bins 0 to `n_bins` - 1 and -1 beside them.

    Args:
        n_bins: Number of bins, K.

    Returns:
        The dtype.

    Example:
        >>> bin_dtype(128), bin_dtype(129)
        (dtype('int8'), dtype('int16'))
    """
    return np.min_scalar_type(-n_bins)


def bin_sizes(bins: Bins, n_bins: int) -> npt.NDArray[np.int64]:
    """Count the members of each bin; what is below 0 is in none.

    Args:
        bins: Bin of each sample, `(N,)`.
        n_bins: Number of bins, K.

    Returns:
        Sizes, int64, `(K,)`.

    Example:
        >>> bin_sizes(np.array([0, 2, -1, 0]), n_bins=3)
        array([2, 0, 1])
    """
    sizes = np.zeros(n_bins, dtype=np.int64)
    for rows in chunks(len(bins)):
        chunk = bins[rows]
        sizes += np.bincount(chunk[chunk >= 0], minlength=n_bins)
    return sizes


def places(bins: Bins, free: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Give each element the next free place of its bin, in order: one chunk of a stable counting sort.

    Args:
        bins: Bin of each element, `(n,)`.
        free: Next free place of each bin, `(K,)`; moved on.

    Returns:
        The places, int64, `(n,)`.

    Example:
        >>> free = np.array([0, 10])
        >>> places(np.array([1, 0, 1]), free), free
        (array([10,  0, 11]), array([ 1, 12]))
    """
    counts = np.bincount(bins, minlength=len(free))
    ahead = np.repeat(free - (counts.cumsum() - counts), counts)
    given = np.empty(len(bins), dtype=np.int64)
    given[np.argsort(bins, kind="stable")] = ahead + np.arange(len(bins))
    free += counts
    return given
