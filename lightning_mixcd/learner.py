"""From what training steps reveal to what the strategy knows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_mixcd.capture import Reading
from lightning_mixcd.data.host_copy import to_device
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.types import Outcome

__all__ = ["Learner", "Ticket"]

Ticket = Mapping[str, Tensor]


class Learner:
    """Collects what batches reveal and lets the strategy learn from several of them at once.

    A batch costs no more than being read. The few operations of a lesson, and the one exchange between
    processes, are made for all batches since the last one together; so every process must give its lessons
    after the same batches, also where it has rehearsed nothing.

    Args:
        strategy: Learns.
        device: Where readings lie.
        total: Returns the sum of a tensor over all ranks; it may change its argument.
    """

    def __init__(
        self, strategy: Strategy, *, device: torch.device, total: Callable[[Tensor], Tensor]
    ) -> None:
        self.strategy, self.device, self._total = strategy, device, total
        self.steps = 0.0  # optimizer steps since the last lesson
        self._pending: list[tuple[Ticket, Reading]] = []
        self._restored: dict[str, Any] = {}  # sums of what was pending at the checkpoint
        self._share: Tensor | None = None  # as last reported
        self._lessons = 0  # since then; and the rows learnt from in these:
        self._damaged, self._rows = torch.zeros((), dtype=torch.int64, device=device), 0
        self._lesson = torch.zeros(2, dtype=torch.int64, device=device)  # damaged and base-correct rows of it

    def add(self, ticket: Ticket, reading: Reading) -> None:
        """Note what a batch revealed.

        Args:
            ticket: What is known of the rehearsed rows, on the host.
            reading: What the model did with them.
        """
        self._pending.append((ticket, reading))

    def learn(self) -> None:
        """Let the strategy learn from everything since the last lesson."""
        tally, damaged, known, rows = self._sums()
        self._lesson = torch.stack([damaged, known])
        self._pending, self._restored = [], {}
        if tally is not None:
            self.strategy.update(self._total(tally), steps=self.steps)
        self.steps = 0.0
        self._lessons += 1
        self._damaged = self._damaged + damaged
        self._rows += rows

    def damaged_share(self) -> Tensor | None:
        """Return which share of the rows learnt from since the last call was damaged, on all ranks together.

        Returns:
            0-dim tensor on the device, NaN where there was no row; without a lesson since, what the last call
            returned; None before the first lesson.
        """
        if self._lessons:
            damaged, rows = self._total(self._counts(self._damaged, self._rows)).unbind()
            self._lessons, self._damaged, self._rows = 0, torch.zeros_like(self._damaged), 0
            self._share = damaged / rows
        return self._share

    def damage_rate(self) -> Tensor:
        """Return which share of the base-correct rows of the last lesson was damaged, on all ranks together.

        Returns:
            0-dim tensor on the device, NaN where there was no such row.
        """
        damaged, known = self._total(self._lesson.clone()).unbind()
        return damaged / known

    # Of what is pending: tally, damaged rows, base-correct rows, rows.
    def _sums(self) -> tuple[Tensor | None, Tensor, Tensor, int]:
        outcome = self._outcome()
        tally, rows = self.strategy.tally(outcome), len(outcome.index)
        damaged = known = torch.zeros_like(self._damaged)
        if "base_correct" in outcome.context:
            base_correct = outcome.context["base_correct"]
            damaged, known = (base_correct & ~outcome.correct).sum(), base_correct.sum()
        if self._restored:
            tally = tally if tally is None else tally + self._restored["tally"]
            damaged, rows = damaged + self._restored["damaged"], rows + self._restored["rows"]
            known = known + self._restored["known"]
        return tally, damaged, known, rows

    def _outcome(self) -> Outcome:
        tickets, readings = [ticket for ticket, _ in self._pending], [reading for _, reading in self._pending]
        if not tickets:
            nothing = torch.zeros(0, dtype=torch.int64)
            tickets = [{"index": nothing, **self.strategy.context(nothing)}]
            readings = [Reading(nothing.to(self.device).bool(), loss=nothing.to(self.device).float())]
        context = {
            key: to_device(torch.cat([ticket[key] for ticket in tickets]), self.device) for key in tickets[0]
        }
        reading = Reading.joined(readings)
        return Outcome(
            context["index"],
            reading.correct,
            reading.loss,
            context,
            self.steps,
            logits=reading.logits,
            features=reading.features,
        )

    def _counts(self, damaged: Tensor, rows: int) -> Tensor:
        return torch.stack([damaged, to_device(torch.tensor(rows), self.device)])

    def state_dict(self, *, together: bool) -> dict[str, Any]:
        """Return what a resumed run needs.

        Args:
            together: Whether all processes are here, so that sums can be made over them.

        Returns:
            The state.
        """
        total = self._total if together else torch.clone
        tally, damaged, known, rows = self._sums()
        return {
            "steps": self.steps,
            "tally": None if tally is None else total(tally),
            "pending": total(torch.cat([self._counts(damaged, rows), known[None]])),
            "share": self._share,
            "lessons": self._lessons,
            "learnt": total(self._counts(self._damaged, self._rows)),
        }

    def load_state_dict(self, state: dict[str, Any], *, first: bool) -> None:
        """Go on where another learner stopped.

        Args:
            state: The state.
            first: Whether this is the process that takes the sums over; the others begin with nothing.
        """
        self.steps, self._lessons, self._share = state["steps"], state["lessons"], state["share"]
        self._share = None if self._share is None else self._share.to(self.device)
        if first:
            tally = None if state["tally"] is None else state["tally"].to(self.device)
            damaged, _, known = state["pending"].to(self.device).unbind()
            rows = int(state["pending"][1])
            self._restored = {"tally": tally, "damaged": damaged, "known": known, "rows": rows}
            self._damaged, self._rows = state["learnt"].to(self.device)[0], int(state["learnt"][1])
