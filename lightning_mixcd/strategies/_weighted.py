"""Draws in proportion to a weight of each sample."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Weighted"]

MOST_TRIES = 16
# No clock of a sample with weight rings later.
FAR = 1e300


class Weighted:
    """Draws samples one after the other, each in proportion to its weight among those not drawn yet.

    Places of the cumulative sum are hit at random and samples hit before are passed over, which is that law
    exactly. A draw costs a binary search per sample; kept are 8 bytes per sample.

    Args:
        weights: Weight of each sample, not negative, `(N,)`.
        drawable: Whether it may be drawn at all, bool, `(N,)`; None for all. Drawable samples without weight
            are drawn, uniformly, once all others are.
        floor: Share of the draws that is uniform over the drawable samples, in [0, 1].
    """

    def __init__(
        self,
        weights: npt.NDArray[np.floating[Any]],
        *,
        drawable: npt.NDArray[np.bool_] | None = None,
        floor: float = 0.0,
    ) -> None:
        self._drawable = drawable
        edges = weights.astype(np.float64)
        if drawable is not None:
            edges *= drawable
        total = edges.sum()
        floor = floor if total > 0 else 1.0
        if total > 0:
            edges *= (1 - floor) / total
        n_drawable = len(edges) if drawable is None else int(drawable.sum())
        np.add(edges, floor / n_drawable, out=edges, where=True if drawable is None else drawable)
        self._edges = edges.cumsum(out=edges)

    def draw(self, n: int, *, generator: torch.Generator) -> npt.NDArray[np.int64]:
        """Draw samples.

        Args:
            n: How many, at most as many as are drawable.
            generator: Source of chance.

        Returns:
            Distinct indices, int64, `(n,)`.
        """
        drawn: dict[int, None] = {}
        for _ in range(MOST_TRIES):
            places = _uniform(n - len(drawn), generator) * self._edges[-1]
            hit = self._edges.searchsorted(places, side="right")
            # The product may round up to the last edge, beyond which there is no sample.
            drawn.update(dict.fromkeys(hit[hit < len(self._edges)].tolist()))
            if len(drawn) == n:
                break
        else:
            drawn.update(dict.fromkeys(self._rest(list(drawn), n - len(drawn), generator)))
        return np.fromiter(drawn, dtype=np.int64, count=n)

    # The same law, for when nearly all the weight is drawn: the first to ring of clocks that run at the
    # speeds of the weights (Efraimidis and Spirakis 2006).
    def _rest(self, drawn: list[int], n: int, generator: torch.Generator) -> list[int]:
        weights = np.diff(self._edges, prepend=0.0)
        clock = -np.log1p(-_uniform(len(weights), generator))
        with np.errstate(divide="ignore"):
            # Without weight, after all others.
            rings = np.where(weights > 0, np.minimum(clock / weights, FAR), FAR * (1 + clock))
        rings[drawn] = np.inf
        if self._drawable is not None:
            rings[~self._drawable] = np.inf
        first: list[int] = np.argpartition(rings, n - 1)[:n].tolist()
        return first


def _uniform(n: int, generator: torch.Generator) -> npt.NDArray[np.float64]:
    return torch.rand(n, generator=generator, dtype=torch.float64).numpy()
