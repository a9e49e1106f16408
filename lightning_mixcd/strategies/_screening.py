"""Strategies that look at candidates with the model at hand."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import CaptureError, check_whole
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.protocols import ModelLook, Seen
from lightning_mixcd.strategies._uniform import Uniform
from lightning_mixcd.strategies.base import Strategy

__all__ = ["Candidates", "Screening", "first", "shown"]

REMEDIES = {
    "loss": 'Return logits, or {"loss": ..., "correct": ..., "losses": ...}, from `training_step`.',
    "label": "Let `training_step` return logits, so that they are compared with the labels.",
    "logits": "Return them from `training_step`, or name the submodule that makes them: Readout(module=...).",
    "features": "Name the head: Readout(features=...).",
}


@dataclass(frozen=True)
class Candidates:
    """Rows of which some will be rehearsed in the step that is about to be made.

    Args:
        rows: Their batch, as `training_step` would get it, on the device.
        finetune: The finetune batch of that step, likewise.
        ticket: What is known of the candidates, by name, each `(c, ...)`, on the device: `index` and, with a
            ledger, `base_correct`.
        look: Runs the model, and counts that.
    """

    rows: object
    finetune: object
    ticket: Mapping[str, Tensor]
    look: ModelLook


class Screening(Strategy):
    """Draws more samples than are rehearsed, and lets the model say which.

    What is drawn comes from another strategy. A subclass chooses among it, on the device, in `screen`. All
    that it asks the model for is counted as compute units.

    Args:
        source: Draws the candidates; `Uniform()` if None.
        candidates_per_row: Candidates for each rehearsed row, at least 2.

    Raises:
        TypeError: If `source` is no strategy.
        ValueError: If `candidates_per_row` is below 2, or `source` does more than draw.
    """

    def __init__(self, source: Strategy | None = None, *, candidates_per_row: int = 3) -> None:
        source = Uniform() if source is None else source
        name = type(self).__name__
        if not isinstance(source, Strategy):
            raise TypeError(f"`source` must be a strategy, got {source!r}. Pass for example Uniform().")
        learns = source.learns or source.refresh_every_n_steps is not None
        if learns or isinstance(source, Screening) or not source.rehearses:
            raise ValueError(
                f"`source` of {name} must be a strategy that draws and learns nothing, got "
                f"{type(source).__name__}. It would learn from what {name} has selected; pass Uniform(), "
                "UniformCorrect() or ClassBalanced()."
            )
        check_whole(candidates_per_row=candidates_per_row)
        if candidates_per_row < 2:
            raise ValueError(
                f"`candidates_per_row` must be at least 2, got {candidates_per_row}. "
                "With 1 there is no choice."
            )
        self.source, self.candidates_per_row = source, candidates_per_row
        self.needs_ledger = source.needs_ledger
        self.needs_columns = source.needs_columns

    @abstractmethod
    def screen(self, candidates: Candidates, n: int) -> Tensor:
        """Choose the rows to rehearse.

        Args:
            candidates: What there is to choose from, c rows.
            n: How many to choose, at most c.

        Returns:
            Distinct positions among the candidates, int64 on the device, `(n,)`.
        """

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        self.source.setup(n_pool, ledger, seed=seed)
        self.n_available = self.source.n_available

    @override
    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:
        self.source.setup_streams(sizes, seed=seed)
        self.n_available = self.source.n_available

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.source.select(n, signal=signal, generator=generator)

    @override
    def select_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return self.source.select_round(n_draws, n, signal=signal, generator=generator)

    @override
    def draw_state(self) -> Tensor:
        return self.source.draw_state()

    @override
    def load_draw_state(self, state: Tensor) -> None:
        self.source.load_draw_state(state)


def first(scores: Tensor, n: int) -> Tensor:
    """Find the highest scores, on their device and without waiting for it.

    Args:
        scores: One for each candidate, `(c,)`; NaN counts as the lowest.
        n: How many, at most c.

    Returns:
        Their positions, the highest first and equal ones in order, int64, `(n,)`.

    Example:
        >>> first(torch.tensor([0.5, float("nan"), 2.0, 0.5]), 3)
        tensor([2, 0, 3])
    """
    lowest = scores.masked_fill(scores.isnan(), -torch.inf)
    return lowest.argsort(descending=True, stable=True)[:n]


def shown(seen: Seen, name: str, strategy: object) -> Tensor:
    """Return what a look must have shown.

    Args:
        seen: What it showed.
        name: "loss", "label", "logits" or "features".
        strategy: Who needs it, for the message.

    Returns:
        The tensor, a row for each row looked at.

    Raises:
        CaptureError: If it is missing.
    """
    values: Tensor | None = getattr(seen, name)
    if values is None:
        raise CaptureError(
            f"{type(strategy).__name__} goes by the {name} of each row, and the model shows none. "
            f"{seen.problem or REMEDIES[name]}"
        )
    return values
