"""Rehearse the damaged ones among some candidates."""

from typing import Literal

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.tolerance import right_now
from lightning_mixcd.strategies._screening import Candidates, Screening, first, shown
from lightning_mixcd.strategies._uniform import UniformCorrect
from lightning_mixcd.strategies.base import Strategy

__all__ = ["ScreenDamaged"]


class ScreenDamaged(Screening):
    """Forward candidates, and rehearse those that are damaged before any others.

    Damaged is what the base model had right and the model has wrong now. With three candidates per row, a
    rehearsed row costs what two do without screening.

    Args:
        source: Draws the candidates; `UniformCorrect()` if None.
        candidates_per_row: Candidates for each rehearsed row, at least 2.
        order: Which come first, among the damaged and among the others: as they were "drawn", or those of the
            highest "loss".

    Raises:
        TypeError: If `source` is no strategy.
        ValueError: If an argument is out of range, or `source` does more than draw.

    Example:
        >>> ScreenDamaged(order="loss").needs_ledger
        True
    """

    def __init__(
        self,
        source: Strategy | None = None,
        *,
        candidates_per_row: int = 3,
        order: Literal["drawn", "loss"] = "drawn",
    ) -> None:
        super().__init__(source or UniformCorrect(), candidates_per_row=candidates_per_row)
        if order not in ("drawn", "loss"):
            raise ValueError(f"`order` must be 'drawn' or 'loss', got {order!r}.")
        self.order = order
        self.needs_ledger = True  # to know what was right before

    @override
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        seen = candidates.look.see(candidates.rows)
        damaged = candidates.ticket["base_correct"] & ~right_now(seen.correct, seen.loss, candidates.ticket)
        if self.order == "drawn":
            return first(damaged.float(), n)
        by_loss = first(shown(seen, "loss", self), len(damaged))
        return by_loss[first(damaged[by_loss].float(), n)]
