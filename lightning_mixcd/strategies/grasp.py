"""Rehearse the typical samples of each class first, then ever less typical ones."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional._chunks import Bins
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.strategies._binned import BLOCK, BinnedStrategy, Shuffles
from lightning_mixcd.strategies._needs import column_of, given
from lightning_mixcd.strategies.base import Strategy

__all__ = ["Grasp"]


class Grasp(BinnedStrategy):
    """Draw a class at random, all alike, and then its next sample in order of distance to the class mean.

    Each class is gone through from its most typical sample to its least typical, then again. Distances are
    Euclidean, between the ledger's features. After Harun et al., "GRASP", arXiv:2308.13646; its own
    probabilities were not at hand, see the card.

    Raises:
        ValueError: If the ledger has no `label` or no `features` column.

    Example:
        >>> features = [[0.0], [2.5], [1.0], [9.0]]
        >>> ledger = Ledger.from_arrays([True] * 4, [0.1] * 4, label=[0] * 4, features=features)
        >>> strategy = Grasp()
        >>> strategy.setup(4, ledger, seed=0)
        >>> strategy.draw(3, signal=None, generator=torch.Generator())  # the mean is 3.125
        tensor([1, 2, 0])
    """

    needs_ledger = True
    needs_columns = ("label", "features")

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        bins, n_bins = self.assign(n_pool, ledger)
        self.draw_along(_ByDistance(bins, n_bins, column_of(given(ledger), "features", self, ndim=2)))

    @override
    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:
        Strategy.setup_streams(self, sizes, seed=seed)  # refuses

    @override
    def assign(self, n_pool: int, ledger: Ledger | None) -> tuple[Bins, int]:
        column_of(given(ledger), "label", self)
        bins = ByLabel().bins(given(ledger))
        return bins, int(bins.max()) + 1

    @override
    def probabilities(self, signal: Tensor | None) -> Tensor:
        return torch.full((len(self.sizes),), 1 / len(self.sizes), dtype=torch.float64)


class _ByDistance(Shuffles):
    """The samples of each class by distance to its mean, over and over."""

    def __init__(self, bins: Bins, n_bins: int, features: npt.NDArray[Any]) -> None:
        super().__init__(bins, n_bins, seed=0)
        for start, size in zip(self._start, self.sizes, strict=True):
            members = self._members[start : start + size]
            rows = features[members].astype(np.float64)
            distances = np.linalg.norm(rows - rows.mean(axis=0), axis=1)
            members[:] = members[np.argsort(distances, kind="stable")]

    @override
    def _shuffled(self, bin_: int, pass_: int, first: int) -> list[int]:
        start, size = int(self._start[bin_]), int(self.sizes[bin_])
        index: list[int] = self._members[start + first : start + min(first + BLOCK, size)].tolist()
        return index
