"""Rehearse in proportion to the loss."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._recorded import Records, RecordStrategy, Source
from lightning_mixcd.strategies._weighted import Weighted

__all__ = ["LossProportional"]


class LossProportional(RecordStrategy):
    """Draw samples one after the other, each in proportion to its loss among those not drawn yet.

    Losses below 0 count as 0. `"last_seen"` and `"refresh"` copy a number per pool sample to the host
    whenever they change, so they suit pools of up to some millions.

    Args:
        source: Where losses come from: the `"ledger"`; the pass in which the sample was `"last_seen"`, first
            that of the ledger; or a `"refresh"`, a pass over the pool now and then.
        every_n_steps: With `"refresh"`, optimizer steps between two passes, at least 1.
        correct_only: Whether only base-correct samples are drawn.
        floor: Share of each draw that stays uniform, in [0, 1].

    Raises:
        ValueError: If an argument is out of range, or `correct_only` leaves no sample.

    Example:
        >>> strategy = LossProportional("ledger", floor=0.0)
        >>> strategy.setup(3, Ledger.from_arrays(correct=[True] * 3, loss=[0.0, 2.0, 0.0]), seed=0)
        >>> strategy.draw(1, signal=None, generator=torch.Generator().manual_seed(0))
        tensor([1])
    """

    def __init__(
        self,
        source: Source = "last_seen",
        *,
        every_n_steps: int = 100,
        correct_only: bool = False,
        floor: float = 0.05,
    ) -> None:
        super().__init__(source, every_n_steps=every_n_steps, correct_only=correct_only)
        check_range("[0, 1]", "The default is 0.05.", floor=floor)
        self.floor = floor

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        super().setup(n_pool, ledger, seed=seed)
        self._table: tuple[Tensor | None, Weighted] | None = None

    @override
    def recorded(self, ledger: Ledger) -> Records:
        return ledger.loss

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        # Signals never change in place, so the same one means the same losses.
        if self._table is None or self._table[0] is not signal:
            losses = self.records(signal).clip(min=0)
            self._table = (signal, Weighted(losses, drawable=self.drawable, floor=self.floor))
        return torch.from_numpy(self._table[1].draw(n, generator=generator))
