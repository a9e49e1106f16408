"""One strategy where ledger and module have what it needs, another elsewhere."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._screening import Screening
from lightning_mixcd.strategies.base import Strategy
from lightning_mixcd.types import Outcome

__all__ = ["Auto"]

logger = logging.getLogger(__name__)


class Auto(Strategy):
    """Use a preferred strategy where ledger and module have what it needs, else another; the log says which.

    Nothing is recorded for the preferred one: it is used where the ledger has its columns already.

    Args:
        preferred: For example `HeadProbe()`, which needs features in the ledger and a head.
        otherwise: For example `MixCD()`.

    Raises:
        TypeError: If one of them is no strategy, or one that looks at the model.

    Example:
        >>> from lightning_mixcd import Auto, HeadProbe, MixCD
        >>> strategy = Auto(HeadProbe(), MixCD())
        >>> strategy.setup(20, Ledger.from_arrays(correct=[True] * 20, loss=[0.1] * 20), seed=0)
        >>> type(strategy.chosen).__name__
        'MixCD'
    """

    needs_ledger = True

    def __init__(self, preferred: Strategy, otherwise: Strategy) -> None:
        for name, strategy in (("preferred", preferred), ("otherwise", otherwise)):
            looks = isinstance(strategy, Screening) or getattr(strategy, "refresh_every_n_steps", None)
            if not isinstance(strategy, Strategy) or looks:
                raise TypeError(
                    f"`{name}` must be a strategy that never looks at the model, got {strategy!r}. Pass for "
                    "example Auto(HeadProbe(), MixCD())."
                )
        self.preferred, self.otherwise = preferred, otherwise
        self.needs_columns = otherwise.needs_columns
        self._obstacle: Exception | None = None
        self._choose(otherwise)

    @property
    @override
    def wants_head(self) -> bool:
        return self.preferred.needs_features or self.otherwise.needs_features

    def _choose(self, strategy: Strategy) -> None:
        self.chosen = strategy
        self.needs_loss, self.needs_logits = strategy.needs_loss, strategy.needs_logits
        self.needs_features = strategy.needs_features

    @override
    def attach(self, head: nn.Module) -> None:
        self._obstacle = None
        try:
            self.preferred.attach(head)
        except (TypeError, ValueError) as error:
            self._obstacle = error
        self.otherwise.attach(head)

    @override
    def attach_none(self, reason: Exception) -> None:
        self._obstacle = reason

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        reason = self._obstacle
        if reason is None:
            try:
                self._take(self.preferred, n_pool, ledger, seed=seed)
            except (LedgerError, ValueError) as error:
                reason = error
        if reason is not None:
            self._take(self.otherwise, n_pool, ledger, seed=seed)
        self._say(reason)

    def _take(self, strategy: Strategy, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        strategy.setup(n_pool, ledger, seed=seed)
        self._choose(strategy)
        self.n_available = strategy.n_available

    @override
    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:
        self.otherwise.setup_streams(sizes, seed=seed)
        self._choose(self.otherwise)
        self.n_available = self.otherwise.n_available

    def _say(self, reason: Exception | None) -> None:
        if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
            return
        because = "" if reason is None else f", because {type(self.preferred).__name__} cannot be: {reason}"
        logger.info("Rehearsal with %s%s", type(self.chosen).__name__, because)

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.chosen.select(n, signal=signal, generator=generator)

    @override
    def select_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        return self.chosen.select_round(n_draws, n, signal=signal, generator=generator)

    @override
    def context(self, index: Tensor) -> Mapping[str, Tensor]:
        return self.chosen.context(index)

    @override
    def tally(self, outcome: Outcome) -> Tensor | None:
        return self.chosen.tally(outcome)

    @override
    def update(self, tally: Tensor, *, steps: float) -> None:
        self.chosen.update(tally, steps=steps)

    @override
    def signal(self) -> Tensor | None:
        return self.chosen.signal()

    @override
    def metrics(self) -> Mapping[str, Tensor]:
        return self.chosen.metrics()

    @override
    def draw_state(self) -> Tensor:
        return self.chosen.draw_state()

    @override
    def load_draw_state(self, state: Tensor) -> None:
        self.chosen.load_draw_state(state)

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self.chosen.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.chosen.load_state_dict(state)
