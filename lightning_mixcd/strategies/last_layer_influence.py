"""Rehearse what pulls the last layer the other way than the finetune batch does."""

from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.strategies._last_layer import has_bias, last_layer_gradients
from lightning_mixcd.strategies._screening import Candidates, Screening, first
from lightning_mixcd.strategies.base import Strategy

__all__ = ["LastLayerInfluence"]


class LastLayerInfluence(Screening):
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

    needs_features = True

    def __init__(self, source: Strategy | None = None, *, candidates_per_row: int = 5) -> None:
        super().__init__(source, candidates_per_row=candidates_per_row)
        self._bias = True

    @override
    def attach(self, head: nn.Module) -> None:
        self._bias = has_bias(head, self)

    @override
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        found, finetune = (
            last_layer_gradients(candidates.look.see(batch), self, bias=self._bias)
            for batch in (candidates.rows, candidates.finetune)
        )
        return first(-found.products(finetune).mean(dim=1), n)
