"""The rows to rehearse, one after the other, in the order that the strategy chooses them."""

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_mixcd.data.host_copy import HostCopy
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.pool_fetch import Fetched, PoolFetch, Request, as_it_is, draws_chance
from lightning_mixcd.data.stream_reader import StreamFetch, StreamReader
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.data.worker import in_worker
from lightning_mixcd.functional.joining import join, n_rows, take_rows
from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.strategies.base import Strategy

__all__ = ["Place", "PoolStream"]

# No draw was opened yet, on any rank.
BEFORE_ALL = -(2**62)


@dataclass(frozen=True)
class Note:
    """A signal, and how far the ranks had come when it was noted.

    Args:
        opened: The draw that this rank had opened.
        pace: The furthest draw that any rank had opened, and minus the least far, int64, `(2,)`; None where
            there is one rank.
        signal: The signal.
    """

    opened: int
    pace: HostCopy | None
    signal: HostCopy

    @property
    def ahead(self) -> int:
        """The furthest draw that any rank had opened."""
        return self.opened if self.pace is None else int(cast("Tensor", self.pace.get())[0])

    @property
    def behind(self) -> int:
        """The least far."""
        return self.opened if self.pace is None else -int(cast("Tensor", self.pace.get())[1])


class Place(NamedTuple):
    """Where a rank stands in its draws.

    Args:
        opened: Draw opened.
        used: Rows of it used.
        start: First draw of its round.
        position: Draw state there.
        reading: State of the streams there; None for a map-style pool, and before the first draw.
    """

    opened: int
    used: int
    start: int
    position: Tensor
    reading: dict[str, Any] | None

    def numbers(self) -> Tensor:
        """Return all but the state of the streams, int64, `(3 + ...,)`."""
        return torch.cat([torch.tensor([self.opened, self.used, self.start]), self.position])


class PoolStream:
    """Fetches rows ahead of training, yet by a rule that does not know how far ahead.

    Rows come in draws of a fixed size for all ranks together, and each rank keeps its own part of each; a
    step takes as many rows as it needs, and what is left of a draw goes to the next step. Draws are made a
    round at a time, from a generator seeded by (seed, first draw of the round) and from the newest signal
    that was noted before any rank had opened the draw that lies `lag` before the round.

    Args:
        pool: What is rehearsed.
        strategy: Chooses; already set up.
        columns: What is known of each pool sample, by its name in tickets, each `(N, ...)`.
        seed: Seed of all draws.
        rank: This process.
        world_size: All processes.
        pin_memory: Whether rows will move to a CUDA device.
    """

    def __init__(
        self,
        pool: Pool,
        strategy: Strategy,
        columns: Mapping[str, npt.NDArray[Any]],
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        self.pool, self.strategy = pool, strategy
        # A plain view: looking rows up in a `memmap` takes several times as long.
        self.columns = {name: np.asarray(values) for name, values in columns.items()}
        self.seed, self.rank, self.world_size, self.pin_memory = seed, rank, world_size, pin_memory
        self.rows_per_draw = 0  # of all ranks together
        self._own_rows = 0  # of this one
        self._opened = -1  # the draw whose rows are being used
        self._used = 0  # how many of them are
        self._rows: Any = None
        self._round = 0  # first draw of the round that the strategy draws next
        self._batches: Iterator[Fetched] | None = None
        self._notes = [Note(BEFORE_ALL, None, HostCopy(strategy.signal()))]
        self._positions: dict[int, Tensor] = {}
        self._tickets: dict[int, dict[str, Tensor]] = {}
        self._warned = False  # of a sample that cannot be read
        self._reader = StreamReader(pool.dataset) if isinstance(pool.dataset, Streams) else None
        self._readings: dict[int, dict[str, Any]] = {}  # where it stood, by the first draw of a round

    def begin(self, rows_per_draw: int) -> None:
        """Fix the size of the draws, before the first row is taken.

        Args:
            rows_per_draw: Rows of one draw, of all ranks together; at least one per rank.

        Raises:
            ValueError: If they are fewer.
        """
        if rows_per_draw < self.world_size:
            raise ValueError(
                f"A draw must have at least one row per process, got {rows_per_draw} rows for "
                f"{self.world_size} processes. A resumed run keeps the draws it was begun with: use fewer."
            )
        self.rows_per_draw = rows_per_draw
        self._own_rows = len(range(self.rank, rows_per_draw, self.world_size))

    def take(self, n: int) -> dict[str, Any]:
        """Return the next `n` rows of this rank.

        Args:
            n: Rows wanted, at least 1.

        Returns:
            `batch`, as the pool's collate function made it, and `ticket`: what is known of each row, with
            `index`, `base_correct` if there is a ledger, and the strategy's context. On the host.

        Raises:
            ValueError: If a draw is larger than what can be drawn, or the collate function dropped samples.
            PoolError: If a sample cannot be read, and is not to be skipped or cannot be.
        """
        parts, own = [], self._own_rows
        while n > 0:
            if self._rows is None or self._used == own:
                self._open_next()
            stop = min(self._used + n, own)
            whole = stop - self._used == own
            parts.append(self._rows if whole else take_rows(self._rows, self._used, stop))
            n -= stop - self._used
            self._used = stop
        rows = parts[0]
        for part in parts[1:]:
            # Each by itself: paths in `pad_values` are those of a batch.
            batch = join(rows["batch"], part["batch"], pad_values=self.pool.known_pad_values)
            rows = {"batch": batch, "ticket": join(rows["ticket"], part["ticket"])}
        return dict(rows)

    def note(self, over_ranks: Callable[[Tensor], Tensor] | None = None) -> None:
        """Keep what the strategy knows now, for draws to come; at the same time on all ranks.

        Args:
            over_ranks: Returns the maximum of a tensor over all ranks, without waiting for it; None where
                there is one rank.
        """
        signal = self.strategy.signal()
        if signal is self._notes[-1].signal.source:
            return
        # Of two notes taken at the same pace, as while nothing is rehearsed, only the newer is ever used.
        if len(self._notes) > 1 and self._notes[-1].ahead == self._notes[-2].ahead:
            del self._notes[-2]
        pace = over_ranks and HostCopy(over_ranks(torch.tensor([self._opened, -self._opened])))
        self._notes.append(Note(self._opened, pace, HostCopy(signal)))

    def _open_next(self) -> None:
        self._opened, self._used = self._opened + 1, 0
        if self._batches is None:
            # The loader must not hold the stream: workers in a reference cycle are stopped late and slowly.
            self._batches = self._fetched(PoolStream._rounds(weakref.proxy(self), self._opened))
        batch, instead, problem = next(self._batches)
        ticket = self._tickets.pop(self._opened)
        if instead is not None:
            ticket = self._ticket(torch.tensor(instead))
            self._warn(problem)
        if n_rows(batch) != self._own_rows:
            raise ValueError(
                f"`collate_fn` of the pool must keep every sample, got {n_rows(batch)} rows for "
                f"{self._own_rows} samples. Filter the pool beforehand."
            )
        self._rows = {"batch": batch, "ticket": ticket}

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{problem}; other samples are rehearsed in its place, and of any more like it.", stacklevel=2
            )

    # What to fetch for the draws of each round, from draw `first` on.
    def _rounds(self, first: int) -> Iterator[list[Request]]:
        while True:
            start, n = self._round, self.pool.round
            oldest = self._opened - n
            self._positions = {c: p for c, p in self._positions.items() if c > oldest}
            self._readings = {c: r for c, r in self._readings.items() if c > oldest}
            self._positions[start] = self.strategy.draw_state()
            if self._reader is not None:
                self._readings[start] = self._reader.state_dict()
            generator = torch.Generator().manual_seed(stream_key(self.seed, start))
            signal = self._signal(start)
            index = self.strategy.draw_round(n, self.rows_per_draw, signal=signal, generator=generator)
            self._check_range(index)
            if self.world_size > 1:
                index = index[:, self.rank :: self.world_size]
            self._round += n
            parts = {k: v.chunk(n) for k, v in self._ticket(index.flatten()).items()}
            draws, requests = index.tolist(), []
            for place in range(max(0, first - start), n):
                self._tickets[start + place] = {key: part[place] for key, part in parts.items()}
                others = (*draws[place + 1 :], *draws[:place]) if self.pool.unreadable == "skip" else ()
                requests.append((start + place, draws[place], list(chain.from_iterable(others))))
            yield requests

    def _check_range(self, index: Tensor) -> None:
        size, drawn = len(self.pool), index.flatten().tolist()
        if self._reader is None and not 0 <= min(drawn) <= max(drawn) < size:
            outside = [i for i in drawn if not 0 <= i < size]
            raise ValueError(
                f"`{type(self.strategy).__name__}.select` must return pool indices in [0, {size}), got "
                f"{outside[:5]}. They are positions in the pool, as `setup` was given its size."
            )

    def _signal(self, start: int) -> Tensor | None:
        """Return what the round that begins with draw `start` goes by, and forget what no round will."""
        note = self._notes[self._newest_note(start)]
        slowest = max(0, note.behind)
        self._notes = self._notes[self._newest_note(slowest - slowest % self.pool.round) :]
        return note.signal.get()

    # Which note the round that begins with draw `start` goes by: the same on all ranks. A later one need not
    # be read, which could wait for the device.
    def _newest_note(self, start: int) -> int:
        before = start - self.pool.lag
        known = (i for i, note in enumerate(self._notes) if note.opened < before and note.ahead < before)
        return max(known, default=0)

    def _ticket(self, index: Tensor) -> dict[str, Tensor]:
        ticket = {"index": index, **self.strategy.context(index)}
        for name, values in self.columns.items():
            ticket[name] = torch.from_numpy(values[index.numpy()])
        if self._reader is not None:
            ticket["base_correct"] = torch.ones(len(index), dtype=torch.bool)
        return ticket

    def _fetched(self, rounds: Iterator[list[Request]]) -> Iterator[Fetched]:
        pool, seed = self.pool, stream_key(self.seed, self.rank)
        fetch: PoolFetch | StreamFetch
        if self._reader is not None:
            # Streams cannot be tried out.
            fetch = StreamFetch(pool, self._reader, seed=None if pool.random is False else seed)
        else:
            chance = pool.random
            if chance is None:
                chance = in_worker(partial(draws_chance, pool), pool.num_workers)
            fetch = PoolFetch(pool, seed=seed if chance else None)
        draws = chain.from_iterable(rounds)
        if not pool.num_workers and not self.pin_memory:
            return fetch.rounds(rounds) if isinstance(fetch, PoolFetch) else map(fetch.__getitems__, draws)
        loader = DataLoader(
            fetch,
            batch_sampler=draws,  # type: ignore[arg-type]  # any iterable works; torch asks for lists
            collate_fn=as_it_is,
            num_workers=self.pool.num_workers,
            prefetch_factor=self.pool.prefetch_factor,
            pin_memory=self.pin_memory,
            # Without its own generator the loader would take a seed from the global one.
            generator=torch.Generator().manual_seed(stream_key(self.seed)),
        )
        return iter(loader)

    def close(self) -> None:
        """Let the loader's workers go; the state can be read, rows can be taken after it was loaded."""
        self._batches = None
        if self._reader is not None:
            self._reader.close()

    @property
    def place(self) -> Place:
        """Where this rank stands."""
        start = self._start
        position = self._positions[start] if self._positions else self.strategy.draw_state()
        return Place(self._opened, self._used, start, position, self._readings.get(start))

    @property
    def _start(self) -> int:
        """The first draw of the round that was opened."""
        return max((c for c in self._positions if c <= self._opened), default=0)

    def state_dict(self, place: Place) -> dict[str, Any]:
        """Return what all ranks share; with the place of each it is enough to make the same draws again.

        Args:
            place: Where this rank stands, or stood since the last `note`.

        Returns:
            The state.
        """
        return {
            "rows_per_draw": self.rows_per_draw,
            "world_size": self.world_size,
            "paces": torch.stack([torch.tensor([note.ahead, -note.behind]) for note in self._notes]),
            "signals": [note.signal.get() for note in self._notes],
            "reading": self._reading(place),
        }

    def _reading(self, place: Place) -> dict[str, Any]:
        if self._reader is None:
            return {}
        return place.reading or self._readings.get(place.start) or self._reader.state_dict()

    def load_state_dict(self, state: dict[str, Any], places: Tensor) -> None:
        """Go on where streams stood when their states were taken, whatever was taken from this one since.

        With another number of processes the draws stay as they were and are shared out anew; what is left of
        a draw that was begun is dropped.

        Args:
            state: The state.
            places: Numbers of the place of each rank, or of the first alone where no other is known,
                `(W, ...)`.
        """
        self.close()
        self._rows, self._positions, self._tickets, self._readings = None, {}, {}, {}
        self.rows_per_draw = 0
        if state["rows_per_draw"]:
            self.begin(state["rows_per_draw"])
        paces = zip(state["paces"].tolist(), state["paces"], state["signals"], strict=True)
        self._notes = [Note(ahead, HostCopy(p), HostCopy(signal)) for (ahead, _), p, signal in paces]
        same = state["world_size"] == self.world_size
        place = places[min(self.rank, len(places) - 1) if same else int(places[:, 0].argmax())]
        self._opened, used, self._round = place[:3].tolist()
        self.strategy.load_draw_state(place[3:])
        if self._reader is not None:
            self._reader.load_state_dict(state["reading"], place[3:].tolist())
        if same and self._opened >= 0:
            self._opened -= 1
            self._open_next()
            self._used = used
