"""Rehearse what the model is least sure of."""

from typing import Literal

import numpy as np
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.functional._chunks import chunks
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._candidates import HardestFirst
from lightning_mixcd.strategies._needs import column_of
from lightning_mixcd.strategies._recorded import Records
from lightning_mixcd.strategies.base import PoolProbe

__all__ = ["LeastConfidence"]

CHUNK = 1 << 14


class LeastConfidence(HardestFirst):
    """Draw, of some random candidates, those whose highest probability is lowest.

    Candidates come in shuffled order, each pool sample once, then all again. Labels play no part.

    Args:
        source: Where confidence comes from: the `"ledger"`, by its column `logits`; or a `"refresh"`, a pass
            over the pool now and then, which begins with the ledger too.
        candidates_per_row: Candidates per sample drawn, at least 1, which is uniform rehearsal.
        every_n_steps: With `"refresh"`, optimizer steps between two passes, at least 1.
        correct_only: Whether only base-correct samples are drawn.

    Raises:
        ValueError: If an argument is out of range, `correct_only` leaves no sample, or the ledger has no
            logits.

    Example:
        >>> import torch
        >>> logits = np.stack([np.linspace(0, 3, 100), np.zeros(100)], axis=1)
        >>> ledger = Ledger.from_arrays(correct=[True] * 100, loss=[0.1] * 100, logits=logits)
        >>> strategy = LeastConfidence()
        >>> strategy.setup(100, ledger, seed=0)
        >>> index = strategy.draw(4, signal=None, generator=torch.Generator())
        >>> bool((logits[index, 0] < 1.5).all())
        True
    """

    needs_columns = ("logits",)
    sources = ("ledger", "refresh")

    def __init__(
        self,
        source: Literal["ledger", "refresh"] = "ledger",
        *,
        candidates_per_row: int = 5,
        every_n_steps: int = 100,
        correct_only: bool = False,
    ) -> None:
        super().__init__(
            source,
            candidates_per_row=candidates_per_row,
            every_n_steps=every_n_steps,
            correct_only=correct_only,
        )

    @override
    def recorded(self, ledger: Ledger) -> Records:
        logits = column_of(ledger, "logits", self, ndim=2)
        confidence = np.empty(len(logits), dtype=np.float32)
        for rows in chunks(len(logits), CHUNK):
            some = np.asarray(logits[rows], dtype=np.float64)
            confidence[rows] = 1 / np.exp(some - some.max(axis=1, keepdims=True)).sum(axis=1)
        return -confidence

    @override
    def seen(self, probe: PoolProbe, index: Tensor) -> Tensor:
        return -probe.confidences(index)
