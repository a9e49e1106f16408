"""Strategies that draw along a shuffled order; of them, those that choose a bin first."""

from abc import abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional._chunks import Bins, bin_dtype, bin_sizes, chunks, places
from lightning_mixcd.functional._coding import MOST_SAMPLES, pool_index, stream_of
from lightning_mixcd.functional.sampling import choose_bins, permute, stream_key
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies.base import Strategy

__all__ = ["NEVER", "BinnedStrategy", "InOrder", "OrderedStrategy", "Shuffles", "one_bin", "some_correct"]

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


def one_bin(n_pool: int, drawable: npt.NDArray[np.bool_] | None = None) -> Bins:
    """Return one bin of all samples that may be drawn, `(N,)`; None for all of them."""
    if drawable is None:
        return np.zeros(n_pool, dtype=np.int8)
    return np.where(drawable, np.int8(0), np.int8(NEVER))


class Shuffles:
    """The endless shuffled order of each bin: every sample once, then all again in another order.

    The order is a function of seed, bin and position, so its only state is how far each bin has been read.
    Kept per pool sample: the bin in the smallest integer type that holds it, and 4 bytes of order.

    Args:
        bins: Bin of each pool sample, `NEVER` for one that must not be drawn, `(N,)`.
        n_bins: Number of bins, K; some may have no sample to draw.
        seed: Seed of all shuffles.
    """

    def __init__(self, bins: Bins, n_bins: int, *, seed: int) -> None:
        self.bins = bins.astype(bin_dtype(n_bins), copy=False)
        self.sizes = bin_sizes(self.bins, n_bins)
        self._start = np.cumsum(self.sizes) - self.sizes
        self._members = np.empty(self.sizes.sum(), dtype=np.min_scalar_type(len(bins)))
        free = self._start.copy()
        for rows in chunks(len(bins)):
            drawable = np.flatnonzero(self.bins[rows] != NEVER)
            self._members[places(self.bins[rows][drawable], free)] = drawable + rows.start
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

    def fill(self, bins: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the next samples of these bins, row by row, distinct within each row, `(D, n)`."""
        taken: list[int] = []
        wanted = np.bincount(bins.ravel(), minlength=len(self.sizes))
        for bin_ in wanted.nonzero()[0].tolist():
            n, size = int(wanted[bin_]), int(self.sizes[bin_])
            if self.position[bin_] % size + n <= size:
                taken += self.take(bin_, n)
            else:  # a sample may come twice, but not in one row
                for n_row in (bins == bin_).sum(axis=1).tolist():
                    taken += self.take(bin_, n_row)
        index = np.empty(bins.size, dtype=np.int64)
        index[bins.argsort(axis=None, kind="stable")] = taken
        return index.reshape(bins.shape)

    def bins_of(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the bin of each of these pool samples."""
        return self.bins[index].astype(np.int64)

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
        shuffled = permute(places, size, stream_key(self._seed, bin_, pass_))
        index: list[int] = self._members[self._start[bin_] + shuffled].tolist()
        return index


class InOrder:
    """The samples of streams, one per bin, in the order in which they come.

    Args:
        n_bins: Number of streams, K.
    """

    def __init__(self, n_bins: int) -> None:
        self.position = np.zeros(n_bins, dtype=np.int64)

    def fill(self, bins: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the next samples of these bins, row by row, `(D, n)`."""
        flat = bins.ravel()
        return pool_index(flat, places(flat, self.position)).reshape(bins.shape)

    def bins_of(self, index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the stream of each of these pool samples."""
        return stream_of(index)


class OrderedStrategy(Strategy):
    """Draws along an order of samples; how far each bin was read is all that draws leave behind."""

    _order: Shuffles | InOrder

    @override
    def draw_state(self) -> Tensor:
        return torch.from_numpy(self._order.position.copy())

    @override
    def load_draw_state(self, state: Tensor) -> None:
        n_bins = len(self._order.position)
        if len(state) != n_bins:
            raise ValueError(
                f"The checkpoint was made with {len(state)} bins, this run has {n_bins}. "
                "Resume with the same pool, ledger and partition."
            )
        self._order.position = state.numpy().copy()


class BinnedStrategy(OrderedStrategy):
    """Draws bins with given probabilities, and samples of a bin without replacement until it is used up."""

    @abstractmethod
    def assign(self, n_pool: int, ledger: Ledger | None) -> tuple[Bins, int]:
        """Return the bin of each pool sample, `(N,)` with `NEVER` for one not drawn, and the number K."""

    def probabilities(self, signal: Tensor | None) -> Tensor:  # noqa: ARG002 -- not of these
        """Return the probability of each bin, 0 for an empty one, `(K,)`; by its size unless overridden."""
        return self.sizes / self.sizes.sum()

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        self.draw_along(Shuffles(*self.assign(n_pool, ledger), seed=seed))

    def draw_along(self, order: Shuffles) -> None:
        """Take an order of the samples in bins."""
        self._order = order
        self.sizes = self._room = torch.from_numpy(order.sizes)
        self.n_available = int(self.sizes.sum())

    @override
    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:
        self._order = InOrder(len(sizes))
        # A stream that ends begins anew.
        self.sizes, self._room = sizes, torch.full((len(sizes),), MOST_SAMPLES)
        self.n_available = MOST_SAMPLES

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.select_round(1, n, signal=signal, generator=generator)[0]

    @override
    def select_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        q = self.probabilities(signal)
        bins = choose_bins(q, self._room, n, n_draws=n_draws, generator=generator)
        return torch.from_numpy(self._order.fill(bins.numpy()))

    def bins_of(self, index: Tensor) -> Tensor:
        """Return the bin of each of these pool samples, int64, `(R,)`."""
        return torch.from_numpy(self._order.bins_of(index.numpy()))
