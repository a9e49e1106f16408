"""Rehearse the few that stand for all candidates."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional.matching_pursuit import matching_pursuit
from lightning_mixcd.strategies._last_layer import LastLayerScreening
from lightning_mixcd.strategies._screening import Candidates

__all__ = ["GradientMatching"]


class GradientMatching(LastLayerScreening):
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

    @override
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        found = self.gradients(candidates.look.see(candidates.rows))
        products = found.products(found)
        return matching_pursuit(products, products.mean(dim=1), n)
