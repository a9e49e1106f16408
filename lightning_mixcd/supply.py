"""The rows that are due beside each finetune batch, from the draw to the device."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_mixcd.baseline import Baseline
from lightning_mixcd.data.host_copy import to_device
from lightning_mixcd.data.stream import Place, PoolStream
from lightning_mixcd.errors import check_kept
from lightning_mixcd.functional.joining import n_rows, pick_rows
from lightning_mixcd.learner import Ticket
from lightning_mixcd.ledger.columns import Array
from lightning_mixcd.look import Look
from lightning_mixcd.pace import Pace
from lightning_mixcd.ranks import Ranks
from lightning_mixcd.settings import Settings
from lightning_mixcd.strategies._screening import Candidates, Screening
from lightning_mixcd.transfer import Transfer

__all__ = ["Supply"]


class Supply:
    """Draws, fetches, screens and moves rehearsed rows.

    Args:
        settings: What is rehearsed, and which of it.
        pace: How many rows are due.
        transfer: Brings them to the device.
        look: Shows them to a strategy that screens.
        ranks: Who else draws.
    """

    def __init__(self, settings: Settings, pace: Pace, transfer: Transfer, look: Look, ranks: Ranks) -> None:
        self._pool, self._strategy, self._seed = settings.pool, settings.strategy, settings.seed
        self._pace, self._transfer, self._look, self._ranks = pace, transfer, look, ranks
        self._screen = self._strategy if isinstance(self._strategy, Screening) else None
        self._per_row = 1 if self._screen is None else self._screen.candidates_per_row

    def begin(self, baseline: Baseline, columns: dict[str, Array], *, device: torch.device) -> None:
        """Get ready for the first batch, now that the strategy is set up.

        Args:
            baseline: What the base model did with the pool.
            columns: What else tickets hold of each pool sample, each `(N, ...)`.
            device: Where rows are brought.
        """
        self._baseline, self._device = baseline, device
        self.stream = PoolStream(
            self._pool,
            self._strategy,
            {**baseline.columns(), **columns},
            seed=self._seed,
            rank=self._ranks.rank,
            world_size=self._ranks.size,
            pin_memory=device.type == "cuda",
        )

    def mark(self) -> None:
        """Remember where rows stand, before those of a batch are taken."""
        self._before = self._place()

    def take(self, finetune: object, step: int) -> tuple[Ticket, object, int] | None:
        """Return the rows that are due beside a finetune batch.

        Args:
            finetune: The finetune batch, on the device.
            step: The optimizer step that it belongs to.

        Returns:
            What is known of the rows; the rows, on the device and up to where batches are joined; and a
            number that tells them from other rows. None where no row is due.
        """
        rows = n_rows(finetune)
        if not self.stream.rows_per_draw:
            most = self._pace.ration.most(rows) * self._per_row
            if per_draw := int(self._ranks.total(most)):  # the first batches may be empty
                self.stream.begin(per_draw)
        n = self._pace.due(rows, step)
        if n == 0:
            return None
        drawn, key = self.stream.take(n * self._per_row), self._pace.ration.given_rows
        ticket, new = self._baseline.known(drawn["ticket"]), self._transfer.bring(drawn["batch"], key=key)
        if self._screen is not None:
            ticket, new = self._screened(self._screen, n, ticket, new, finetune)
        return ticket, new, key

    def _screened(
        self, strategy: Screening, n: int, ticket: Ticket, rows: object, finetune: object
    ) -> tuple[Ticket, object]:
        ticket = {name: to_device(values, self._device) for name, values in ticket.items()}
        shown = self._transfer.preview(rows)
        check_kept(n_rows(shown), n * self._per_row)
        rows_seen = self._transfer.marked(shown)
        finetune_seen = self._transfer.preview(finetune)
        chosen = strategy.screen(Candidates(rows_seen, finetune_seen, ticket, self._look), n)
        return {name: values[chosen] for name, values in ticket.items()}, pick_rows(rows, chosen)

    def note(self) -> None:
        """Keep what the strategy knows now, for draws to come; at the same time on all ranks."""
        alone = self._ranks.size == 1
        self.stream.note(None if alone else partial(self._ranks.reduce, how="max"))

    def _place(self) -> tuple[dict[str, int], Place]:
        return self._pace.ration.state_dict(), self.stream.place

    def state_dict(self, *, together: bool, again: bool) -> dict[str, Any]:
        """Return what is needed to go on with the same rows.

        Args:
            together: Whether all processes are here, so that each can add its place.
            again: Whether the batch since the last `mark` will be made again.

        Returns:
            The state.
        """
        ration, place = self._before if again else self._place()
        numbers = torch.cat([torch.tensor([*ration.values()]), place.numbers()])
        places = self._ranks.gather(numbers) if together else numbers[None]
        return {"places": places, "stream": self.stream.state_dict(place)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; after `begin`, and after the strategy has.

        Args:
            state: The state.
        """
        places: Tensor = state["places"]
        rations, places = places.tensor_split([2], dim=1)
        self.stream.load_state_dict(state["stream"], places)
        if state["stream"]["world_size"] == self._ranks.size:
            finetune_rows, given_rows = rations[min(self._ranks.rank, len(rations) - 1)].tolist()
            self._pace.ration.load_state_dict({"finetune_rows": finetune_rows, "given_rows": given_rows})
