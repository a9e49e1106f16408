"""Rehearse more and more, or less and less."""

import math
from dataclasses import dataclass

from lightning_mixcd.errors import check_counts, check_range, check_whole

__all__ = ["Ramp"]


@dataclass(frozen=True)
class Ramp:
    """Move the share of the mix ratio from one value to another, then keep it.

    Args:
        steps: Optimizer steps that this takes, at least 1.
        start: Share at first, in [0, 1].
        end: Share at last, in [0, 1].
        first: Step at which the share begins to move.
        shape: "linear"; or "cosine", which begins and ends slowly.

    Raises:
        ValueError: If a share or `steps` is out of range, or `shape` is neither.

    Example:
        >>> warm_down = Ramp(4, start=1, end=0.2)
        >>> [round(warm_down(step), 2) for step in range(6)]
        [1.0, 0.8, 0.6, 0.4, 0.2, 0.2]
    """

    steps: int
    start: float = 0.0
    end: float = 1.0
    first: int = 0
    shape: str = "linear"

    def __post_init__(self) -> None:
        check_whole(first=self.first)
        check_counts("These are optimizer steps.", steps=self.steps)
        check_range("[0, 1]", "Raise `mix_ratio` to rehearse more.", start=self.start, end=self.end)
        if self.shape not in {"linear", "cosine"}:
            raise ValueError(f'`shape` must be "linear" or "cosine", got {self.shape!r}.')

    def __call__(self, step: int) -> float:
        """Return which share of the mix ratio an optimizer step, counted from 0, rehearses."""
        done = min(1.0, max(0, step - self.first) / self.steps)
        if self.shape == "cosine":
            done = (1 - math.cos(math.pi * done)) / 2
        return (1 - done) * self.start + done * self.end
