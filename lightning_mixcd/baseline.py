"""What the base model did with the pool, as far as it decides what is damaged."""

import numpy as np
import torch
from torch import Tensor

from lightning_mixcd.functional.tolerance import ALLOWED_LOSS
from lightning_mixcd.learner import Ticket
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.ledger.columns import Array

__all__ = ["Baseline"]

BASE_LOSS = "ledger/loss"


class Baseline:
    """The ledger, and how far losses may rise above it.

    With a tolerance every sample counts as base-correct, and is damaged once its loss is more than that above
    the base model's. Without one, what the ledger has as correct is damaged once it is answered wrong.

    Args:
        ledger: The base model's record of the pool, if there is one.
        tolerance: How much a loss may rise, in nats; None where answers are compared.
    """

    def __init__(self, ledger: Ledger | None, tolerance: float | None) -> None:
        self._tolerance = tolerance
        self.ledger = ledger if ledger is None or tolerance is None else ledger.with_all_correct()

    def columns(self) -> dict[str, Array]:
        """Return what tickets hold of each pool sample, by name, each `(N,)`."""
        if self.ledger is None:
            return {}
        columns = {"base_correct": self.ledger.correct}
        return columns if self._tolerance is None else {**columns, BASE_LOSS: self.ledger.loss}

    def known(self, ticket: Ticket) -> Ticket:
        """Add the allowed loss to what a ticket holds.

        Args:
            ticket: The ticket, on the host.

        Returns:
            What is known of its rows.
        """
        if self._tolerance is None:
            return ticket
        return {**ticket, ALLOWED_LOSS: ticket[BASE_LOSS] + self._tolerance}

    def known_of(self, index: Tensor) -> Ticket:
        """Look up what is known of pool samples.

        Args:
            index: Pool indices, int64 on the host, `(n,)`.

        Returns:
            Each column of theirs, as in tickets.
        """
        rows = index.numpy()
        return self.known({n: torch.from_numpy(np.asarray(v)[rows]) for n, v in self.columns().items()})
