"""Rehearse what the finetuned model's predictions were found to come from."""

import numpy as np
from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._candidates import HardestFirst
from lightning_mixcd.strategies._recorded import Records

__all__ = ["MostSupportive"]


class MostSupportive(HardestFirst):
    """Draw, of some random candidates, those that support some queries most, by recorded influence scores.

    The lower a score of `lightning_mixcd.influence.influence`, the more the sample's part in pretraining
    lowered the loss of the queries. Candidates come in shuffled order, each pool sample once, then all again.

    Args:
        column: Ledger column of the scores, `(N,)`.
        candidates_per_row: Candidates per sample drawn, at least 1, which is uniform rehearsal.
        correct_only: Whether only base-correct samples are drawn.

    Raises:
        ValueError: If `candidates_per_row` is below 1, the column is no number per sample, or `correct_only`
            leaves no sample.

    Example:
        >>> import torch
        >>> scores = np.linspace(-1, 1, 100)
        >>> ledger = Ledger.from_arrays(correct=[True] * 100, loss=[0.1] * 100, influence=scores)
        >>> strategy = MostSupportive()
        >>> strategy.setup(100, ledger, seed=0)
        >>> index = strategy.draw(4, signal=None, generator=torch.Generator())
        >>> bool((ledger.column("influence")[index] < 0).all())
        True
    """

    sources = ("ledger",)

    def __init__(
        self, column: str = "influence", *, candidates_per_row: int = 5, correct_only: bool = False
    ) -> None:
        super().__init__(
            "ledger", candidates_per_row=candidates_per_row, every_n_steps=1, correct_only=correct_only
        )
        self.column, self.needs_columns = column, (column,)

    @override
    def recorded(self, ledger: Ledger) -> Records:
        scores = ledger.column(self.column)
        if scores.ndim != 1 or scores.dtype.kind != "f" or not np.isfinite(scores).all():
            raise ValueError(
                f"`column` must name finite scores, one per sample, but {self.column!r} has dtype "
                f"{scores.dtype} and shape {scores.shape}, or holds NaN. Make them with `influence`."
            )
        return -scores
