"""Rehearse what a function says."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies.base import Strategy

__all__ = ["FunctionStrategy"]


class FunctionStrategy(Strategy):
    """Draw what a function returns: for trying an idea before it is worth a class.

    The function must take all chance from its generator and remember nothing, so that a run is repeatable and
    can be resumed.

    Args:
        function: `function(n, ledger, generator)` returns `n` distinct pool indices; the ledger is None if
            the callback was given none.

    Raises:
        TypeError: If `function` cannot be called.

    Example:
        >>> def hardest(n, ledger, generator):
        ...     return ledger.loss.argsort()[::-1][:n]
        >>> strategy = FunctionStrategy(hardest)
        >>> strategy.setup(3, Ledger.from_arrays(correct=[True] * 3, loss=[0.2, 0.9, 0.5]), seed=0)
        >>> strategy.draw(2, signal=None, generator=torch.Generator())
        tensor([1, 2])
    """

    def __init__(self, function: Callable[[int, Ledger | None, torch.Generator], object]) -> None:
        if not callable(function):
            raise TypeError(
                f"`function` must be a function of (n, ledger, generator), got {function!r}. Pass its name "
                "without brackets."
            )
        self.function = function

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        self.n_available, self._ledger = n_pool, ledger

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        index = torch.from_numpy(np.asarray(self.function(n, self._ledger, generator)).copy())
        outside = index[(index < 0) | (index >= self.n_available)].tolist()
        if outside:
            raise ValueError(
                f"`function` must return pool indices in [0, {self.n_available}), got {outside[:5]}. Return "
                "positions in the ledger's columns."
            )
        return index
