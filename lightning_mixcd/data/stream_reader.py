"""Reading all streams of a pool, and fetching their samples for a draw."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Dataset

from lightning_mixcd.data.cursor import Cursor
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.pool_fetch import Fetched
from lightning_mixcd.data.seeded import SeededFetch
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.functional._coding import position_in, stream_of

__all__ = ["StreamFetch", "StreamReader"]


class StreamReader(Dataset[Any]):
    """Reads all streams of a pool for one process, each from front to back.

    Args:
        streams: The pool.

    Example:
        >>> reader = StreamReader(Streams({"news": "abc"}))
        >>> reader.__getitems__([0, 2, 4])
        ['a', 'c', 'b']
    """

    def __init__(self, streams: Streams) -> None:
        self.cursors = {name: Cursor(streams, name) for name in streams.streams}
        self._in_order = list(self.cursors.values())

    def __getitems__(self, index: list[int]) -> list[Any]:
        """Return samples, none of which comes before one that was read already.

        Args:
            index: Their pool indices.

        Returns:
            The samples.
        """
        with _no_worker():
            return [self._in_order[stream_of(i)].read(position_in(i)) for i in index]

    def state_dict(self) -> dict[str, Any]:
        """Return where each stream stands, in plain values."""
        return {name: cursor.state_dict() for name, cursor in self.cursors.items()}

    def load_state_dict(self, state: Mapping[str, Any], first: Sequence[int]) -> None:
        """Go on where another reader stood, with those streams in which it was not too far.

        Args:
            state: The state.
            first: The first position that will be asked for, of each stream.

        Raises:
            ValueError: If it is of other streams.
        """
        if [*state] != [*self.cursors]:
            raise ValueError(
                f"A run must be resumed with the streams it was begun with, {[*state]} in this order, got "
                f"{[*self.cursors]}."
            )
        for cursor, saved, position in zip(self._in_order, state.values(), first, strict=True):
            cursor.load_state_dict(saved, position)

    def close(self) -> None:
        """Let go of what is being read."""
        for cursor in self._in_order:
            cursor.close()


class StreamFetch(Dataset[Any]):
    """Fetches the samples of a draw from streams, as `PoolFetch` does from a map-style pool.

    Args:
        pool: The pool.
        reader: Reads its streams.
        seed: Seed of the run on this rank; None where nothing draws random numbers.
    """

    def __init__(self, pool: Pool, reader: StreamReader, *, seed: int | None) -> None:
        self._fetch = SeededFetch(reader, pool.collate_fn, seed=seed)

    def __getitems__(self, request: tuple[int, list[int], list[int]]) -> Fetched:
        """Return the samples of a draw.

        Args:
            request: Number of the draw, the pool indices to fetch, and what a map-style pool could do with.

        Returns:
            The samples.
        """
        draw, index, _ = request
        return Fetched(self._fetch.__getitems__((draw, index)))


@contextmanager
def _no_worker() -> Iterator[None]:
    """Let streams see no loader worker: those of Hugging Face would give each worker only its share."""
    worker: Any = torch.utils.data._utils.worker  # noqa: SLF001 -- there is no public way to be no worker
    info, worker._worker_info = worker._worker_info, None  # noqa: SLF001
    try:
        yield
    finally:
        worker._worker_info = info  # noqa: SLF001
