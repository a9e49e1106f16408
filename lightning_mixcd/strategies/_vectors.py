"""One vector per sample."""

import numpy as np

from lightning_mixcd.ledger.columns import Array

__all__ = ["unit"]


def unit(rows: Array) -> Array:
    """Bring vectors to length 1; a vector of zeros stays one.

    Args:
        rows: The vectors, `(n, d)`.

    Returns:
        Directions, float64, `(n, d)`.

    Example:
        >>> unit(np.array([[3, 4], [0, 0]]))
        array([[0.6, 0.8],
               [0. , 0. ]])
    """
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    found: Array = np.divide(rows, length, out=np.zeros(rows.shape), where=length > 0)
    return found
