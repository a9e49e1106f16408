"""Rehearse what pulls the last layer the other way than the finetune batch does."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.strategies._last_layer import LastLayerScreening
from lightning_mixcd.strategies._screening import Candidates, first

__all__ = ["LastLayerInfluence"]


class LastLayerInfluence(LastLayerScreening):
    r"""Rehearse the candidates whose last-layer gradient conflicts most with that of the finetune batch.

    The score of a candidate is $-\langle g_i, \bar g \rangle$, with $\bar g$ the mean gradient of the
    finetune rows: to first order in the learning rate, and through the last layer alone, by how much a step
    on them raises its loss. That is TracIn, Pruthi et al., arXiv:2002.08484, turned to what is forgotten, and
    a cheap form of `MIR`. The gradients follow from logits and features, so there is no backward pass.

    Args:
        source: Draws the candidates; `Uniform()` if None.
        candidates_per_row: Candidates for each rehearsed row, at least 2.

    Raises:
        TypeError: If `source` is no strategy.
        ValueError: If `candidates_per_row` is below 2, `source` does more than draw, or the head is not one
            linear layer.

    Example:
        >>> LastLayerInfluence().candidates_per_row
        5
    """

    @override
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        found, finetune = (
            self.gradients(candidates.look.see(batch)) for batch in (candidates.rows, candidates.finetune)
        )
        return first(-found.products(finetune).mean(dim=1), n)
