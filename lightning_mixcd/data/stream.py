"""The rows to rehearse, one after the other, in the order that the strategy chooses them."""

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_mixcd.data.host_copy import HostCopy
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.seeded import SeededFetch, draws_chance
from lightning_mixcd.functional.joining import join, n_rows, take_rows
from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.strategies.base import Strategy

__all__ = ["PoolStream"]


class PoolStream:
    """Fetches rows ahead of training, yet by a rule that does not know how far ahead.

    Draw c is made for all ranks together, from a generator seeded by (seed, c) and from the strategy's signal
    as of the moment when draw c - lag was opened; each rank keeps its own part. A draw has a fixed number of
    rows; a step takes as many as it needs, and what is left of a draw goes to the next step.

    Args:
        pool: What is rehearsed.
        strategy: Chooses; already set up.
        base_correct: Which pool samples the base model had right, bool, `(N,)`; None if not known.
        seed: Seed of all draws.
        rank: This process.
        world_size: All processes.
        pin_memory: Whether rows will move to a CUDA device.
    """

    def __init__(
        self,
        pool: Pool,
        strategy: Strategy,
        base_correct: npt.NDArray[np.bool_] | None,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.pool, self.strategy = pool, strategy
        # A plain view: looking rows up in a `memmap` takes several times as long.
        self.base_correct = None if base_correct is None else np.asarray(base_correct)
        self.seed, self.rank, self.world_size, self.pin_memory = seed, rank, world_size, pin_memory
        self.rows_per_draw = 0
        self._opened = -1  # the draw whose rows are being used
        self._used = 0  # how many of them are
        self._rows: Any = None
        self._batches: Iterator[Any] | None = None
        self._signals: dict[int, HostCopy] = {}
        self._positions: dict[int, Tensor] = {}
        self._tickets: dict[int, dict[str, Tensor]] = {}

    def take(self, n: int) -> dict[str, Any]:
        """Return the next `n` rows of this rank.

        Args:
            n: Rows wanted, at least 1. The first call fixes the rows per draw.

        Returns:
            `batch`, as the pool's collate function made it, and `ticket`: what is known of each row, with
            `index`, `base_correct` if there is a ledger, and the strategy's context. On the host.
        """
        self.rows_per_draw = self.rows_per_draw or n
        parts = []
        while n > 0:
            if self._rows is None or self._used == self.rows_per_draw:
                self._open_next()
            stop = min(self._used + n, self.rows_per_draw)
            whole = stop - self._used == self.rows_per_draw
            parts.append(self._rows if whole else take_rows(self._rows, self._used, stop))
            n -= stop - self._used
            self._used = stop
        rows = parts[0]
        for part in parts[1:]:
            rows = join(rows, part, pad_values=self.pool.pad_values)
        return dict(rows)

    def _open_next(self) -> None:
        """Fetch the next draw; what the strategy knows now is what draw `opened + lag` will go by.

        Raises:
            ValueError: If the collate function dropped samples.
        """
        self._opened, self._used = self._opened + 1, 0
        self._note_signal()
        if self._batches is None:
            # The loader must not hold the stream: workers in a reference cycle are stopped late and slowly.
            self._batches = self._fetched(PoolStream._draws(weakref.proxy(self), self._opened))
        batch = next(self._batches)
        ticket = self._tickets.pop(self._opened)
        self._positions = {c: p for c, p in self._positions.items() if c >= self._opened}
        if n_rows(batch) != self.rows_per_draw:
            raise ValueError(
                f"`collate_fn` of the pool must keep every sample, got {n_rows(batch)} rows for "
                f"{self.rows_per_draw} samples. Filter the pool beforehand."
            )
        self._rows = {"batch": batch, "ticket": ticket}

    def _note_signal(self) -> None:
        signal = self.strategy.signal()
        copies = [copy for copy in self._signals.values() if copy.source is signal]
        copy = copies[0] if copies else HostCopy(signal)
        for draw in range(self._opened, self._opened + self.pool.lag + 1):
            self._signals.setdefault(draw, copy)
        self._signals = {c: s for c, s in self._signals.items() if c >= self._opened}

    def _draws(self, first: int) -> Iterator[tuple[int, list[int]]]:
        draw = first
        while True:
            self._positions[draw] = self.strategy.draw_state()
            generator = torch.Generator().manual_seed(stream_key(self.seed, draw))
            signal = self._signals[draw].get()
            n = self.rows_per_draw * self.world_size
            index = self.strategy.draw(n, signal=signal, generator=generator)[self.rank :: self.world_size]
            self._tickets[draw] = self._ticket(index)
            yield draw, index.tolist()
            draw += 1

    def _ticket(self, index: Tensor) -> dict[str, Tensor]:
        ticket = {"index": index, **self.strategy.context(index)}
        if self.base_correct is not None:
            ticket["base_correct"] = torch.from_numpy(self.base_correct[index.numpy()])
        return {k: v.pin_memory() for k, v in ticket.items()} if self.pin_memory else ticket

    def _fetched(self, draws: Iterator[tuple[int, list[int]]]) -> Iterator[Any]:
        pool, seed = self.pool, stream_key(self.seed, self.rank)
        chance = draws_chance(pool.dataset, pool.collate_fn) if pool.random is None else pool.random
        fetch = SeededFetch(pool.dataset, pool.collate_fn, seed=seed if chance else None)
        if not pool.num_workers and not self.pin_memory:
            return map(fetch.__getitems__, draws)
        loader = DataLoader(
            fetch,
            batch_sampler=draws,  # type: ignore[arg-type]  # any iterable works; torch asks for lists
            collate_fn=_as_it_is,
            num_workers=self.pool.num_workers,
            prefetch_factor=self.pool.prefetch_factor,
            pin_memory=self.pin_memory,
            # Without its own generator the loader would take a seed from the global one.
            generator=torch.Generator().manual_seed(self.seed),
        )
        return iter(loader)

    def close(self) -> None:
        """Let the loader's workers go; no rows can be taken afterwards, the state can be read."""
        self._batches = None

    def state_dict(self) -> dict[str, Any]:
        """Return where the stream stands: exactly enough to make the same draws again."""
        if self._rows is None:
            return {"rows_per_draw": 0}
        return {
            "rows_per_draw": self.rows_per_draw,
            "opened": self._opened,
            "used": self._used,
            "position": self._positions[self._opened],
            "signals": {draw: copy.get() for draw, copy in self._signals.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a stream stood when `state_dict` was called; before the first `take`.

        Args:
            state: The state.
        """
        if not state["rows_per_draw"]:
            return
        self.rows_per_draw = state["rows_per_draw"]
        copies = {id(signal): HostCopy(signal) for signal in state["signals"].values()}
        self._signals = {draw: copies[id(signal)] for draw, signal in state["signals"].items()}
        self.strategy.load_draw_state(state["position"])
        self._opened = state["opened"] - 1
        self._open_next()
        self._used = state["used"]


def _as_it_is(batch: object) -> object:
    """Return what `SeededFetch` has collated already."""
    return batch
