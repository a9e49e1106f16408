"""Rehearse what marks the border between the finetune batch and what the model knew."""

from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_counts
from lightning_mixcd.functional.knn_shapley import knn_shapley
from lightning_mixcd.protocols import Seen
from lightning_mixcd.strategies._screening import Candidates, Screening, first, shown
from lightning_mixcd.strategies.base import Strategy

__all__ = ["ASER"]


class ASER(Screening):
    """Rehearse candidates that are good neighbours of pool samples and bad ones of the finetune batch.

    What a candidate is worth to a k-nearest-neighbour classifier in the space of features is its Shapley
    value. High for pool samples, it stands for its class; low for finetune rows, it lies among rows of other
    classes. The score is the first minus the second: adversarial Shapley value experience replay, Shim et
    al., arXiv:2009.00093. Half of the rows drawn are candidates, the other half are the pool samples.

    Args:
        source: Draws these rows; `Uniform()` if None.
        candidates_per_row: Rows drawn for each rehearsed row, at least 3.
        k: Neighbours that have a say, at least 1.
        score: How values are taken together: "asvm", the mean over pool samples, with each class weighing the
            same, minus the mean over finetune rows; or "asv", the highest minus the lowest.

    Raises:
        TypeError: If `source` is no strategy.
        ValueError: If an argument is out of range, or `source` does more than draw.

    Example:
        >>> ASER(k=3).k
        3
    """

    needs_features = True

    def __init__(
        self,
        source: Strategy | None = None,
        *,
        candidates_per_row: int = 4,
        k: int = 5,
        score: Literal["asvm", "asv"] = "asvm",
    ) -> None:
        super().__init__(source, candidates_per_row=candidates_per_row)
        if candidates_per_row < 3:
            raise ValueError(
                f"`candidates_per_row` must be at least 3 for ASER, got {candidates_per_row}. Half of them "
                "are not chosen from."
            )
        check_counts("The default is 5.", k=k)
        if score not in ("asvm", "asv"):
            raise ValueError(f"`score` must be 'asvm' or 'asv', got {score!r}.")
        self.k, self.score = k, score

    @override
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        features, label = self._known(candidates.look.see(candidates.rows))
        finetune = self._known(candidates.look.see(candidates.finetune))
        half = len(label) // 2
        # The rows come in random order.
        others = features[-half:], label[-half:]
        good, bad = (self._values(points, features[:-half], label[:-half]) for points in (others, finetune))
        if self.score == "asv":
            return first(good.amax(dim=0) - bad.amin(dim=0), n)
        weight = 1 / (others[1][:, None] == others[1]).sum(dim=1).float()
        return first(weight @ good / weight.sum() - bad.mean(dim=0), n)

    def _known(self, seen: Seen) -> tuple[Tensor, Tensor]:
        return shown(seen, "features", self).float(), shown(seen, "label", self)

    def _values(self, points: tuple[Tensor, Tensor], features: Tensor, label: Tensor) -> Tensor:
        return knn_shapley(torch.cdist(points[0], features), points[1][:, None] == label, self.k)
