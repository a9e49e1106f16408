"""A training run's dealings with a strategy, without the training."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.strategies.base import Strategy
from lightning_mixcd.testing._support import require
from lightning_mixcd.types import Outcome

__all__ = ["Case", "ToyProbe", "generator", "outcome_of", "rehearse"]


@dataclass(frozen=True)
class Case:
    """A strategy and a ledger to check it on."""

    make: Callable[[], Strategy]
    ledger: Ledger
    name: str
    chance: bool

    def start(self, seed: int = 0) -> Strategy:
        """Return a strategy that is ready to draw."""
        strategy = self.make()
        strategy.setup(self.ledger.size, self.ledger, seed=seed)
        return strategy

    def n(self, strategy: Strategy) -> int:
        """Return a number of samples that leaves a choice where there is one."""
        return max(1, strategy.n_available // 2)


class ToyProbe:
    """A model that has three of four samples right."""

    def __init__(self, n_pool: int) -> None:
        self.n_pool = n_pool

    def correct(self, index: Tensor) -> Tensor:
        """Return whether it has each of these samples right, bool, `(n,)`."""
        return self._checked(index) % 4 != 0

    def losses(self, index: Tensor) -> Tensor:
        """Return the loss of each of these samples, float32, `(n,)`."""
        return (self._checked(index) % 4).float() / 4

    def confidences(self, index: Tensor) -> Tensor:
        """Return the highest probability of each of these samples, float32, `(n,)`."""
        return (self._checked(index) % 3 + 1).float() / 3

    def _checked(self, index: Tensor) -> Tensor:
        within = ((index >= 0) & (index < self.n_pool)).all()
        require(
            within, f"`refresh` must ask for pool indices below {self.n_pool}, asked for {index.tolist()}."
        )
        return index


def generator(seed: int) -> torch.Generator:
    """Return a source of chance of its own."""
    return torch.Generator().manual_seed(seed)


def outcome_of(strategy: Strategy, index: Tensor, step: int = 0) -> Outcome:
    """Return what a step might have revealed about drawn samples; the loss only if it is asked for."""
    loss = (index % 5) / 4 + 0.1 if strategy.needs_loss else None
    return Outcome(index, (index * 7 + step) % 3 != 0, loss, strategy.context(index), steps=1.0)


def rehearse(
    strategy: Strategy, case: Case, *, first: int = 0, n_steps: int = 4, chance: int = 0
) -> list[Tensor]:
    """Let a strategy draw and learn for some steps.

    Args:
        strategy: Set up already.
        case: What it is checked on.
        first: Number of the first step.
        n_steps: Steps.
        chance: Seed of the draws, together with the number of the step.

    Returns:
        What it drew at each step.
    """
    drawn = []
    for step in range(first, first + n_steps):
        signal = strategy.signal()
        index = strategy.draw(case.n(strategy), signal=signal, generator=generator(1000 * chance + step))
        tally = strategy.tally(outcome_of(strategy, index, step))
        if tally is not None:
            strategy.update(tally, steps=1.0)
        if strategy.refresh_every_n_steps is not None:
            strategy.refresh(ToyProbe(case.ledger.size))
        drawn.append(index)
    return drawn
