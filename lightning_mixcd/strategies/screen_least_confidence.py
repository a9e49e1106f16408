"""Rehearse the candidates that the model is least sure of."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.strategies._screening import Candidates, Screening, first, shown

__all__ = ["ScreenLeastConfidence"]


class ScreenLeastConfidence(Screening):
    """Forward candidates, and rehearse those whose highest probability is lowest; labels play no part.

    `LeastConfidence` does this with probabilities that it has on record. With three candidates per row, a
    rehearsed row costs what two do without screening.

    Args:
        source: Draws the candidates; `Uniform()` if None.
        candidates_per_row: Candidates for each rehearsed row, at least 2.

    Raises:
        TypeError: If `source` is no strategy.
        ValueError: If `candidates_per_row` is below 2, or `source` does more than draw.

    Example:
        >>> ScreenLeastConfidence().candidates_per_row
        3
    """

    @override
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        logits = shown(candidates.look.see(candidates.rows), "logits", self)
        return first(-logits.float().softmax(dim=1).amax(dim=1), n)
