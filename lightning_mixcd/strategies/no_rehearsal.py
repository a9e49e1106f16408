"""Rehearse nothing."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies.base import Strategy

__all__ = ["NoRehearsal"]


class NoRehearsal(Strategy):
    """Plain finetuning: the lower control of every comparison.

    Example:
        >>> NoRehearsal().rehearses
        False
    """

    rehearses = False

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        """Need nothing."""

    @override
    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:
        """Need nothing."""

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        return torch.zeros(0, dtype=torch.int64)
