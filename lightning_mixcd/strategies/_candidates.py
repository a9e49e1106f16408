"""The hardest of some candidates, so that a draw does not grow with the pool."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._binned import NEVER, Shuffles
from lightning_mixcd.strategies._recorded import RecordStrategy, Source

__all__ = ["Candidates", "HardestFirst"]


class Candidates:
    """Deals out candidates from an endless shuffled order, so that every sample is one again and again.

    Args:
        per_row: Candidates for each sample to be drawn, at least 1.
        n_pool: Size of the pool, N.
        drawable: Which samples are dealt out, bool, `(N,)`; None for all.
        seed: Seed of the order.
    """

    def __init__(
        self, per_row: int, n_pool: int, *, drawable: npt.NDArray[np.bool_] | None = None, seed: int
    ) -> None:
        bins = np.zeros(n_pool, dtype=np.int8)
        if drawable is not None:
            bins[~drawable] = NEVER
        self._shuffles = Shuffles(bins, 1, seed=seed)
        self._per_row = per_row

    def take(self, n: int) -> npt.NDArray[np.int64]:
        """Return distinct candidates for `n` samples, of a small pool so few that chance has a part in it."""
        most = (n + int(self._shuffles.sizes[0])) // 2
        return np.array(self._shuffles.take(0, min(n * self._per_row, most)))

    @property
    def position(self) -> Tensor:
        """How far the order was read: a copy to be saved, or a value to go on from."""
        return self._shuffles.state()

    @position.setter
    def position(self, position: Tensor) -> None:
        self._shuffles.load_state(position)


class HardestFirst(RecordStrategy):
    """Draws the candidates with the highest records.

    Args:
        source: See `RecordStrategy`.
        candidates_per_row: Candidates per sample drawn, at least 1.
        every_n_steps: See `RecordStrategy`.
        correct_only: See `RecordStrategy`.
    """

    def __init__(
        self, source: Source, *, candidates_per_row: int, every_n_steps: int, correct_only: bool
    ) -> None:
        super().__init__(source, every_n_steps=every_n_steps, correct_only=correct_only)
        if candidates_per_row < 1:
            raise ValueError(
                f"`candidates_per_row` must be at least 1, got {candidates_per_row}. The default is 5."
            )
        self.candidates_per_row = candidates_per_row

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        super().setup(n_pool, ledger, seed=seed)
        self._candidates = Candidates(self.candidates_per_row, n_pool, drawable=self.drawable, seed=seed)

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        found = self._candidates.take(n)
        hardest = np.argsort(-self.records(signal)[found], kind="stable")[:n]
        return torch.from_numpy(found[hardest])

    @override
    def draw_state(self) -> Tensor:
        return self._candidates.position

    @override
    def load_draw_state(self, state: Tensor) -> None:
        self._candidates.position = state
