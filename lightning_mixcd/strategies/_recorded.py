"""Strategies that go by one number per pool sample."""

from abc import abstractmethod
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_counts
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._binned import some_correct
from lightning_mixcd.strategies._needs import given, losses_of
from lightning_mixcd.strategies.base import PoolProbe, Strategy
from lightning_mixcd.types import Outcome

__all__ = ["RecordStrategy", "Records", "Source"]

Records: TypeAlias = npt.NDArray[np.floating[Any]]
Source: TypeAlias = Literal["ledger", "last_seen", "refresh"]


class RecordStrategy(Strategy):
    """Knows one number of each pool sample, its record: how hard the sample is, in some sense.

    Args:
        source: Where records come from: the `"ledger"`; the pass in which the sample was `"last_seen"`, first
            that of the ledger; or a `"refresh"`, a pass over the pool now and then.
        every_n_steps: Optimizer steps between two passes, at least 1.
        correct_only: Whether only base-correct samples are drawn.
    """

    needs_ledger = True
    sources: tuple[Source, ...] = ("ledger", "last_seen", "refresh")

    def __init__(self, source: Source, *, every_n_steps: int, correct_only: bool) -> None:
        if source not in self.sources:
            raise ValueError(f"`source` must be one of {list(self.sources)}, got {source!r}.")
        check_counts("The default is 100.", every_n_steps=every_n_steps)
        self.source, self.correct_only = source, correct_only
        # Of this object, not of its class.
        self.needs_loss = source == "last_seen"
        self.refresh_every_n_steps = every_n_steps if source == "refresh" else None

    @property
    def every_n_steps(self) -> int | None:
        """Optimizer steps between two passes; None without passes."""
        return self.refresh_every_n_steps

    @abstractmethod
    def recorded(self, ledger: Ledger) -> Records:
        """Return what the ledger says of each sample, `(N,)`."""

    def seen(self, probe: PoolProbe, index: Tensor) -> Tensor:
        """Return what the model says of these samples now, by default their losses, `(n,)`."""
        return probe.losses(index)

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        ledger = some_correct(ledger) if self.correct_only else given(ledger)
        self._base = np.asarray(self.recorded(ledger))
        self.drawable = np.asarray(ledger.correct) if self.correct_only else None
        self.n_available = n_pool if self.drawable is None else int(self.drawable.sum())
        self._now = None if self.source == "ledger" else torch.tensor(self._base, dtype=torch.float32)

    def records(self, signal: Tensor | None) -> Records:
        """Return the record of each sample that a draw goes by, `(N,)`."""
        return self._base if signal is None else signal.numpy()

    @override
    def tally(self, outcome: Outcome) -> Tensor | None:
        if self.source != "last_seen":
            return None
        loss = losses_of(outcome, self)
        usable = loss.isfinite()
        values = torch.stack([loss.where(usable, 0), usable.to(loss.dtype)])
        return values.new_zeros(2, len(self._base)).index_add_(1, outcome.index, values)

    @override
    def update(self, tally: Tensor, *, steps: float) -> None:
        total, times = tally.unbind()
        self._now = torch.where(times > 0, total / times, given(self._now).to(tally.device))

    @override
    def refresh(self, probe: PoolProbe) -> None:
        index = torch.from_numpy(
            np.arange(len(self._base)) if self.drawable is None else self.drawable.nonzero()[0]
        )
        found = self.seen(probe, index).cpu().float()
        now = given(self._now)
        self._now = now.index_put((index,), found.where(found.isfinite(), now[index]))

    @override
    def signal(self) -> Tensor | None:
        return self._now

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {} if self._now is None else {"records": self._now}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._now = state.get("records")
