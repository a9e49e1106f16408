"""Strategies that choose a bin first and then any sample of the bin."""

from abc import abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.sampling import bin_quotas, permute, stream_key
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies.base import Strategy

__all__ = ["NEVER", "BinnedStrategy", "Shuffles", "some_correct"]

NEVER = -1
BLOCK = 1024


def some_correct(ledger: Ledger | None) -> Ledger:
    """Return the ledger, once it is sure that it has a base-correct sample to rehearse.

    Raises:
        ValueError: If there is none.
    """
    if ledger is None or not ledger.correct.any():
        raise ValueError(
            "`ledger` must have a sample that the base model got right, got none. "
            "Check that base model, pool and labels belong together, or use `Uniform`."
        )
    return ledger


class Shuffles:
    """The endless shuffled order of each bin: every sample once, then all again in another order.

    The order is a function of seed, bin and position, so its only state is how far each bin has been read.
    Kept per pool sample: the bin in the smallest integer type that holds it, and 4 bytes of order.

    Args:
        bins: Bin of each pool sample, `NEVER` for one that must not be drawn, `(N,)`.
        n_bins: Number of bins, K; some may have no sample to draw.
        seed: Seed of all shuffles.
    """

    def __init__(self, bins: npt.NDArray[np.int64], n_bins: int, *, seed: int) -> None:
        self.bins = bins.astype(np.min_scalar_type(-n_bins))
        drawable = np.flatnonzero(bins != NEVER).astype(np.min_scalar_type(len(bins)))
        self._order = drawable[np.argsort(self.bins[drawable], kind="stable")]
        self.sizes = np.bincount(bins[drawable], minlength=n_bins)
        self._start = np.cumsum(self.sizes) - self.sizes
        self.position = np.zeros(n_bins, dtype=np.int64)
        self._seed = seed
        self._block: dict[int, tuple[int, int, list[int]]] = {}

    def take(self, bin_: int, n: int) -> list[int]:
        """Return the next `n` distinct samples of a bin; `n` is at most the bin's size."""
        taken: dict[int, None] = {}
        while len(taken) < n:
            # Only where one pass ends and the next begins can a sample come twice; the second is passed over.
            some = self._read(bin_, int(self.position[bin_]), n - len(taken))
            self.position[bin_] += len(some)
            taken.update(dict.fromkeys(some))
        return list(taken)

    def _read(self, bin_: int, position: int, n: int) -> list[int]:
        """Return up to `n` samples from a position of the endless order, within one block of one pass."""
        pass_, place = divmod(position, int(self.sizes[bin_]))
        first = place - place % BLOCK
        if self._block.get(bin_, (None, None))[:2] != (pass_, first):
            self._block[bin_] = (pass_, first, self._shuffled(bin_, pass_, first))
        return self._block[bin_][2][place - first : place - first + n]

    def _shuffled(self, bin_: int, pass_: int, first: int) -> list[int]:
        size = int(self.sizes[bin_])
        places = np.arange(first, min(first + BLOCK, size))
        members = permute(places, size, stream_key(self._seed, bin_, pass_))
        index: list[int] = self._order[self._start[bin_] + members].tolist()
        return index


class BinnedStrategy(Strategy):
    """Draws bins with given probabilities, and samples of a bin without replacement until it is used up."""

    @abstractmethod
    def assign(self, n_pool: int, ledger: Ledger | None) -> tuple[npt.NDArray[np.int64], int]:
        """Return the bin of each pool sample, `(N,)` with `NEVER` for one not drawn, and the number K."""

    @abstractmethod
    def probabilities(self, signal: Tensor | None) -> Tensor:
        """Return the probability of each bin, 0 for an empty one, `(K,)`; `self.sizes` holds the sizes."""

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        self._shuffles = Shuffles(*self.assign(n_pool, ledger), seed=seed)
        self.sizes = torch.from_numpy(self._shuffles.sizes)
        self.n_available = int(self.sizes.sum())

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        quotas = bin_quotas(self.probabilities(signal), self.sizes, n, generator=generator).numpy()
        index: list[int] = []
        for bin_ in quotas.nonzero()[0].tolist():
            index += self._shuffles.take(bin_, int(quotas[bin_]))
        # Else a step that takes part of a draw would get its lowest bins.
        return torch.tensor([index[i] for i in torch.randperm(n, generator=generator).tolist()])

    @override
    def draw_state(self) -> Tensor:
        return torch.from_numpy(self._shuffles.position.copy())

    @override
    def load_draw_state(self, state: Tensor) -> None:
        if state.shape != self.sizes.shape:
            raise ValueError(
                f"The checkpoint was made with {len(state)} bins, this run has {len(self.sizes)}. "
                "Resume with the same pool, ledger and partition."
            )
        self._shuffles.position = state.numpy().copy()

    def bins_of(self, index: Tensor) -> Tensor:
        """Return the bin of each of these pool samples, int64, `(R,)`."""
        return torch.from_numpy(self._shuffles.bins[index.numpy()].astype(np.int64))
