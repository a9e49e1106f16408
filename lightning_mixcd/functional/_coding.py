"""Pool indices of samples that come in streams: which stream, and the how manieth sample of it."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

__all__ = ["MOST_SAMPLES", "pool_index", "position_in", "stream_of"]

POSITION_BITS = 40
MOST_SAMPLES = 1 << POSITION_BITS

Index = TypeVar("Index", int, Tensor, npt.NDArray[np.int64])


def pool_index(stream: Index, position: Index) -> Index:
    """Return the pool index of a sample of a stream.

    Args:
        stream: Number of the stream.
        position: The how manieth of its samples, from 0, over all passes.

    Returns:
        The index.

    Example:
        >>> i = pool_index(2, 7)
        >>> stream_of(i), position_in(i)
        (2, 7)
    """
    return (stream << POSITION_BITS) + position


def stream_of(index: Index) -> Index:
    """Return the number of the stream of a sample."""
    return index >> POSITION_BITS


def position_in(index: Index) -> Index:
    """Return the how manieth sample of its stream it is."""
    return index & (MOST_SAMPLES - 1)
