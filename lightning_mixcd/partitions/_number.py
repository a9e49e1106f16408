"""Bins from values, without ever holding all the values."""

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_mixcd.functional._chunks import Bins, bin_dtype, chunks

__all__ = ["number"]


def number(read: Callable[[slice], npt.NDArray[Any]], n: int) -> Bins:
    """Number values that occur by their sorted order: `numpy.unique(values, return_inverse=True)[1]`.

    Args:
        read: Returns the values of some rows, `(R,)`; asked for each row twice.
        n: Number of rows, N.

    Returns:
        The number of each row's value, in the smallest type, `(N,)`.

    Example:
        >>> values = np.array(["tv", "law", "tv"])
        >>> number(lambda rows: values[rows], len(values)).tolist()
        [1, 0, 1]
    """
    values = reduce(np.union1d, map(read, chunks(n)), read(slice(0)))
    bins = np.empty(n, dtype=bin_dtype(len(values)))
    for rows in chunks(n):
        bins[rows] = values.searchsorted(read(rows))
    return bins
