"""Rehearse the candidates with the highest loss."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.strategies._screening import Candidates, Screening, first, shown

__all__ = ["ScreenHighestLoss"]


class ScreenHighestLoss(Screening):
    """Forward candidates, and rehearse those with the highest loss.

    `HighestLoss` does this with losses that it has on record. With three candidates per row, a rehearsed row
    costs what two do without screening.

    Args:
        source: Draws the candidates; `Uniform()` if None.
        candidates_per_row: Candidates for each rehearsed row, at least 2.

    Raises:
        TypeError: If `source` is no strategy.
        ValueError: If `candidates_per_row` is below 2, or `source` does more than draw.

    Example:
        >>> ScreenHighestLoss().candidates_per_row
        3
    """

    @override
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        return first(shown(candidates.look.see(candidates.rows), "loss", self), n)
