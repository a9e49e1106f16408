"""From what training steps reveal to what the strategy knows."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_mixcd.capture import Reading
from lightning_mixcd.data.host_copy import to_device
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.functional.tolerance import ALLOWED_LOSS, right_now
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.types import Outcome

__all__ = ["Learner", "Ticket"]

Ticket = Mapping[str, Tensor]

# Of keys in a state.
TICKET, READING = "ticket/", "reading/"
# Of keys in a ticket: what penalties asked of the ledger, which is none of the strategy's.
LEDGER = "ledger/"


class Learner:
    """Collects what batches reveal and lets the strategy learn from several of them at once.

    A batch costs no more than being read. The few operations of a lesson, and the one exchange between
    processes, are made for all batches since the last one together; so every process must give its lessons
    after the same batches, also where it has rehearsed nothing.

    Args:
        strategy: Learns.
        device: Where readings lie.
        total: Returns the sum of a tensor over all ranks; it may change its argument.
        everyones: Returns the tensors of each rank, in their order, on the host.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        device: torch.device,
        total: Callable[[Tensor], Tensor],
        everyones: Callable[[dict[str, Tensor]], list[dict[str, Tensor]]],
    ) -> None:
        self.strategy, self.device, self._total, self._everyones = strategy, device, total, everyones
        self.steps = 0.0  # optimizer steps since the last lesson
        self._pending: list[tuple[Ticket, Reading]] = []
        self._share: Tensor | None = None  # as last reported
        self._lessons = 0  # since then; and the rows learnt from in these:
        self._damaged, self._rows = torch.zeros((), dtype=torch.int64, device=device), 0
        # Damaged rows and all, learnt from up to the last report; None if an earlier version did not count.
        self._run: Tensor | None = torch.zeros(2, dtype=torch.int64, device=device)
        self._lesson = torch.zeros(2, dtype=torch.int64, device=device)  # damaged and base-correct rows of it

    def add(self, ticket: Ticket, reading: Reading) -> None:
        """Note what a batch revealed.

        Args:
            ticket: What is known of the rehearsed rows, on the host.
            reading: What the model did with them.

        Raises:
            CaptureError: If correctness, or losses that are to be compared, were not read.
        """
        if reading.problem:
            raise CaptureError(reading.problem)
        if ALLOWED_LOSS in ticket:
            ticket = {**ticket, ALLOWED_LOSS: to_device(ticket[ALLOWED_LOSS], self.device)}
            reading = replace(reading, matched=right_now(reading.correct, reading.loss, ticket))
        self._pending.append((_own(ticket), reading))

    def learn(self) -> None:
        """Let the strategy learn from everything since the last lesson."""
        outcome = self._outcome()
        tally, known = self.strategy.tally(outcome), outcome.context.get("base_correct")
        if known is None:
            self._lesson = torch.zeros_like(self._lesson)
        else:
            self._lesson = torch.stack([known & ~outcome.correct, known]).sum(dim=1)
            self._rows += len(outcome.index)
        self._pending = []
        if tally is not None:
            self.strategy.update(self._total(tally), steps=self.steps)
        self.steps = 0.0
        self._lessons += 1
        self._damaged = self._damaged + self._lesson[0]

    def damaged_share(self) -> Tensor | None:
        """Return which share of the rows learnt from since the last call was damaged, on all ranks together.

        Returns:
            0-dim tensor on the device; without a row since, what the last call returned; NaN before the first
            row, None before the first lesson.
        """
        if self._lessons:
            counts = self._counts()
            self._run = None if self._run is None else self._run + counts
            damaged, rows = self._total(counts).unbind()
            self._lessons, self._damaged, self._rows = 0, torch.zeros_like(self._damaged), 0
            before = damaged / rows if self._share is None else self._share
            self._share = torch.where(rows > 0, damaged / rows, before)
        return self._share

    def damage_rate(self) -> Tensor:
        """Return which share of the base-correct rows of the last lesson was damaged, on all ranks together.

        Returns:
            0-dim tensor on the device, NaN where there was no such row.
        """
        damaged, known = self._total(self._lesson.clone()).unbind()
        return damaged / known

    def _outcome(self) -> Outcome:
        tickets, readings = [ticket for ticket, _ in self._pending], [reading for _, reading in self._pending]
        if not tickets:
            nothing = torch.zeros(0, dtype=torch.int64)
            tickets = [{"index": nothing, **self.strategy.context(nothing)}]
            readings = [Reading(nothing.to(self.device).bool(), loss=nothing.to(self.device).float())]
        context = {
            key: to_device(_joined([ticket[key] for ticket in tickets]), self.device) for key in tickets[0]
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

    def _counts(self) -> Tensor:
        return torch.stack([self._damaged, to_device(torch.tensor(self._rows), self.device)])

    # All rows, on the host. A sum of them would be rounded in another order once more rows come to it.
    def _pending_rows(self) -> dict[str, Tensor]:
        if not self._pending:
            return {}
        tickets, readings = [ticket for ticket, _ in self._pending], [reading for _, reading in self._pending]
        rows = {f"{TICKET}{key}": _joined([ticket[key] for ticket in tickets]) for key in tickets[0]}
        read = Reading.joined(readings).tensors
        rows |= {f"{READING}{name}": values for name, values in read.items()}
        return {name: values.cpu() for name, values in rows.items()}

    def _restored(self, rows: dict[str, Tensor]) -> tuple[Ticket, Reading]:
        ticket = {key.removeprefix(TICKET): rows[key] for key in rows if key.startswith(TICKET)}
        read: dict[str, Any] = {
            key.removeprefix(READING): rows[key].to(self.device) for key in rows if key.startswith(READING)
        }
        return _own(ticket), Reading(**read)  # earlier versions kept all of it

    def state_dict(self, *, together: bool) -> dict[str, Any]:
        """Return what a resumed run needs.

        Args:
            together: Whether all processes are here, so that each can add its part.

        Returns:
            The state; under "run", of the rows learnt from since the beginning, how many were damaged and how
            many there were, `(2,)`; None if an earlier version did not count.
        """
        total, rows, counts = self._total if together else torch.clone, self._pending_rows(), self._counts()
        return {
            "steps": self.steps,
            "pending": self._everyones(rows) if together else [rows],
            "share": self._share,
            "lessons": self._lessons,
            "run": None if self._run is None else total(self._run + counts),
            "learnt": total(counts),
        }

    def load_state_dict(self, state: dict[str, Any], *, rank: int, size: int) -> None:
        """Go on where another learner stopped.

        Args:
            state: The state.
            rank: This process: it goes on with its own rows. Where there were more or fewer processes, the
                first one takes them all, and always the sums; the others begin with nothing.
            size: All processes.
        """
        self.steps, self._lessons, self._share = state["steps"], state["lessons"], state["share"]
        self._share = None if self._share is None else self._share.to(self.device)
        pending = state["pending"]
        mine = [pending[rank]] if len(pending) == size else pending if rank == 0 else []
        self._pending = [self._restored(rows) for rows in mine if rows]
        learnt, run = state["learnt"] * (rank == 0), state.get("run")
        self._damaged, self._rows = learnt[0].to(self.device), int(learnt[1])
        self._run = None if run is None else (run * (rank == 0) - learnt).to(self.device)


def _own(ticket: Ticket) -> Ticket:
    return {key: rows for key, rows in ticket.items() if not key.startswith(LEDGER)}


# Tickets of a restored run begin on the host, also where those of its new batches do not.
def _joined(parts: list[Tensor]) -> Tensor:
    device = parts[-1].device
    return torch.cat([part if part.device == device else part.to(device) for part in parts])
