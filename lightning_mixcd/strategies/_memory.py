"""Strategies that choose a memory once and rehearse it uniformly."""

from abc import abstractmethod

import numpy as np
import numpy.typing as npt
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_counts
from lightning_mixcd.functional._chunks import Bins
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._binned import NEVER, BinnedStrategy
from lightning_mixcd.strategies._needs import given
from lightning_mixcd.strategies.base import Strategy

__all__ = ["MemoryStrategy", "quotas"]


class MemoryStrategy(BinnedStrategy):
    """Chooses samples when a run starts and draws no others.

    Args:
        memory_size: Samples in the memory, M, at least 1.
    """

    needs_ledger = True

    def __init__(self, memory_size: int) -> None:
        check_counts("A few hundred is usual.", memory_size=memory_size)
        self.memory_size = memory_size

    @abstractmethod
    def choose(self, ledger: Ledger, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the distinct pool indices of the memory, `(M,)`."""

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        self._seed = seed
        super().setup(n_pool, ledger, seed=seed)

    @override
    def assign(self, n_pool: int, ledger: Ledger | None) -> tuple[Bins, int]:
        if self.memory_size > n_pool:
            raise ValueError(
                f"`memory_size` must be at most the size of the pool ({n_pool}), got {self.memory_size}. "
                "To rehearse the whole pool use `Uniform`."
            )
        bins = np.full(n_pool, NEVER, dtype=np.int8)
        bins[self.choose(given(ledger), np.random.default_rng(self._seed % 2**64))] = 0
        return bins, 1

    @override
    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:
        Strategy.setup_streams(self, sizes, seed=seed)  # refuses


def quotas(sizes: npt.NDArray[np.int64], n: int) -> npt.NDArray[np.int64]:
    """Share places out among classes as evenly as their sizes allow.

    Args:
        sizes: Size of each class, `(K,)`.
        n: Places, at most the sum of the sizes.

    Returns:
        Places of each class, at most its size, `(K,)`; they sum to `n`.

    Example:
        >>> quotas(np.array([50, 2, 50]), 12)
        array([5, 2, 5])
    """
    shares = np.zeros_like(sizes)
    for rank, k in enumerate(np.argsort(sizes, kind="stable")):
        shares[k] = min(sizes[k], (n - shares.sum()) // (len(sizes) - rank))
    return shares
