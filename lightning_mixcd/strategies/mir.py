"""Rehearse what the step that is about to be made would hurt most."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.strategies._screening import Candidates, Screening, first, shown
from lightning_mixcd.strategies.base import Strategy

__all__ = ["MIR"]


class MIR(Screening):
    r"""Rehearse the candidates whose loss a virtual step on the finetune batch would raise most.

    The score of a candidate is $\ell(\theta - \eta g; x) - \ell(\theta; x)$, with g the gradient of the
    finetune batch's loss: maximally interfered retrieval, Aljundi et al., arXiv:1908.04742. The virtual step
    is plain SGD, whatever the optimizer.

    Args:
        source: Draws the candidates; `Uniform()` if None.
        candidates_per_row: Candidates for each rehearsed row, at least 2.
        learning_rate: Size of the virtual step, above 0; if None the current learning rate of the optimizer's
            first parameter group.

    Raises:
        TypeError: If `source` is no strategy.
        ValueError: If a number is out of range, or `source` does more than draw.

    Example:
        >>> MIR(candidates_per_row=8).candidates_per_row
        8
    """

    def __init__(
        self,
        source: Strategy | None = None,
        *,
        candidates_per_row: int = 5,
        learning_rate: float | None = None,
    ) -> None:
        super().__init__(source, candidates_per_row=candidates_per_row)
        if learning_rate is not None:
            check_range("(0, inf)", "With None it is that of the optimizer.", learning_rate=learning_rate)
        self.learning_rate = learning_rate

    @override
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        look = candidates.look
        rate = look.learning_rate if self.learning_rate is None else self.learning_rate
        gradient = look.gradient(candidates.finetune)
        with torch.no_grad():
            stepped = {
                name: parameter.sub(gradient[name], alpha=rate)
                for name, parameter in look.optimized().items()
            }
        before = shown(look.see(candidates.rows), "loss", self)
        after = shown(look.see(candidates.rows, weights=stepped), "loss", self)
        return first(after - before, n)
