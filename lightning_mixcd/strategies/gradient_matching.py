"""Rehearse the few that stand for all candidates."""

from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.functional.matching_pursuit import matching_pursuit
from lightning_mixcd.strategies._last_layer import has_bias, last_layer_gradients
from lightning_mixcd.strategies._screening import Candidates, Screening
from lightning_mixcd.strategies.base import Strategy

__all__ = ["GradientMatching"]


class GradientMatching(Screening):
    """Rehearse candidates whose last-layer gradients together come nearest to the mean over all candidates.

    They are found one by one, by orthogonal matching pursuit. After GradMatch, Killamsetty et al.,
    arXiv:2103.00123, which chooses a part of a training set like that. The gradients follow from logits and
    features, so there is no backward pass.

    Args:
        source: Draws the candidates; `Uniform()` if None.
        candidates_per_row: Candidates for each rehearsed row, at least 2.

    Raises:
        TypeError: If `source` is no strategy.
        ValueError: If `candidates_per_row` is below 2, `source` does more than draw, or the head is not one
            linear layer.

    Example:
        >>> GradientMatching().candidates_per_row
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
        found = last_layer_gradients(candidates.look.see(candidates.rows), self, bias=self._bias)
        products = found.products(found)
        return matching_pursuit(products, products.mean(dim=1), n)
