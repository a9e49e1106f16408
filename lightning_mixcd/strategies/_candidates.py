"""The hardest of some candidates, so that a draw does not grow with the pool."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_counts
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._binned import OrderedStrategy, Shuffles, one_bin
from lightning_mixcd.strategies._recorded import RecordStrategy, Source

__all__ = ["HardestFirst", "next_candidates"]


def next_candidates(order: Shuffles, n: int, per_row: int) -> npt.NDArray[np.int64]:
    """Return the next distinct candidates for `n` samples, of a small pool so few that chance has a part."""
    most = (n + int(order.sizes[0])) // 2
    return np.array(order.take(0, min(n * per_row, most)))


class HardestFirst(RecordStrategy, OrderedStrategy):
    """Draws the candidates with the highest records.

    Args:
        source: See `RecordStrategy`.
        candidates_per_row: Candidates per sample drawn, at least 1.
        every_n_steps: See `RecordStrategy`.
        correct_only: See `RecordStrategy`.
    """

    _order: Shuffles

    def __init__(
        self,
        source: Source = "last_seen",
        *,
        candidates_per_row: int = 5,
        every_n_steps: int = 100,
        correct_only: bool = False,
    ) -> None:
        super().__init__(source, every_n_steps=every_n_steps, correct_only=correct_only)
        check_counts("The default is 5.", candidates_per_row=candidates_per_row)
        self.candidates_per_row = candidates_per_row

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        super().setup(n_pool, ledger, seed=seed)
        self._order = Shuffles(one_bin(n_pool, self.drawable), 1, seed=seed)

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        found = next_candidates(self._order, n, self.candidates_per_row)
        hardest = np.argsort(-self.records(signal)[found], kind="stable")[:n]
        return torch.from_numpy(found[hardest])
