"""Fetching pool samples, some of which may be unreadable."""

import random
from collections.abc import Collection, Iterable, Iterator
from itertools import chain, cycle
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset, default_collate

from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.seeded import SeededFetch, seeded
from lightning_mixcd.errors import PoolError, of_the_pool, unreadable_sample
from lightning_mixcd.functional.joining import split_rows

__all__ = ["Fetched", "PoolFetch", "Request", "as_it_is", "draws_chance"]

PROBED = 16
# Number of a draw, the pool indices to fetch, and spare ones.
Request: TypeAlias = tuple[int, list[int], list[int]]


class Fetched(NamedTuple):
    """What came of a request.

    Args:
        batch: The samples, collated.
        instead: Pool indices of its rows, where they are not the ones asked for; otherwise None.
        problem: Why they are not.
    """

    batch: Any
    instead: list[int] | None = None
    problem: str = ""


class PoolFetch(Dataset[Any]):
    """Fetches the samples of a draw, in a worker or not, and finds out which of them cannot be read.

    Where fetching fails, every sample is read by itself. With `Pool(unreadable="skip")` the others of the
    draw take turns in the places of those that fail, or the spare ones if all fail; what is fetched depends
    on nothing else.

    Args:
        pool: The pool.
        seed: Seed of the run on this rank; None where nothing draws random numbers.

    Example:
        >>> PoolFetch(Pool(["a", "b", "c"], collate_fn=list), seed=0).__getitems__((5, [2, 0], [])).batch
        ['c', 'a']
    """

    def __init__(self, pool: Pool, *, seed: int | None) -> None:
        self.pool = pool
        self._fetch = SeededFetch(pool.dataset, pool.collate_fn, seed=seed)
        self._try = SeededFetch(pool.dataset, as_it_is, seed=0)
        # Nothing else is known to give each row the same batch, whatever other rows come with it.
        self._together = seed is None and self._fetch.collate_fn is default_collate

    def rounds(self, rounds: Iterable[list[Request]]) -> Iterator[Fetched]:
        """Fetch draw after draw; those of a round at once, where that gives the same batches in less time.

        Args:
            rounds: What to fetch for the draws of each round, with as many rows in each.

        Yields:
            The samples of each draw.

        Raises:
            PoolError: As `__getitems__` does, for the draw that has the sample.
        """
        for requests in rounds:
            yield from self._at_once(requests) or map(self.__getitems__, requests)

    def _at_once(self, requests: list[Request]) -> list[Fetched]:
        if not self._together or len(requests) < 2:
            return []
        n, index = len(requests[0][1]), list(chain.from_iterable(rows for _, rows, _ in requests))
        try:
            batch = self._fetch.__getitems__((requests[0][0], index))
            return [Fetched(rows) for rows, _ in zip(split_rows(batch, n), requests, strict=True)]
        except Exception:  # noqa: BLE001 -- whatever it is, it comes again with the draw that it belongs to
            self._together = False
            return []

    def __getitems__(self, request: Request) -> Fetched:
        """Return the samples of a draw.

        Args:
            request: What to fetch.

        Returns:
            The samples.

        Raises:
            PoolError: If a sample cannot be read, and is not to be skipped or none can take its place.
        """
        draw, index, spare = request
        try:
            return Fetched(self._fetch.__getitems__((draw, index)))
        except Exception:  # noqa: BLE001 -- whatever a dataset may raise
            failed = self._failed(index)
        if not failed:  # collating failed, and will again; or reading did, for a moment
            with of_the_pool():
                return Fetched(self._fetch.__getitems__((draw, index)))
        first, cause = next(iter(failed.items()))
        skip = self.pool.unreadable == "skip"
        readable = self._readable(index, spare, failed) if skip else []
        if not readable:
            also = f" So did the {len(index) + len(spare) - 1} others tried in its place." if skip else ""
            raise PoolError(unreadable_sample(first, self.pool.dataset, cause) + also) from cause
        turns = cycle(readable)
        index = [next(turns) if i in failed else i for i in index]
        problem = f"Pool index {first} cannot be read ({cause!r})"
        return Fetched(self._fetch.__getitems__((draw, index)), index, problem)

    def _readable(self, index: list[int], spare: list[int], failed: Collection[int]) -> list[int]:
        readable = [i for i in index if i not in failed]
        if readable:
            return readable
        failed = self._failed(spare)
        # Of several other draws, which may have a sample in common.
        return [i for i in dict.fromkeys(spare) if i not in failed]

    def _failed(self, index: list[int]) -> dict[int, Exception]:
        found = {}
        for i in index:
            try:
                self._try.__getitems__((0, [i]))
            except Exception as error:  # noqa: BLE001 -- likewise
                found[i] = error
        return found


def draws_chance(pool: Pool) -> bool:
    """Find out whether fetching draws random numbers, from a few samples spread over the pool.

    Args:
        pool: The pool, of N samples.

    Returns:
        Whether a global random state moved.

    Example:
        >>> draws_chance(Pool(range(100)))
        False
        >>> draws_chance(Pool(range(100), collate_fn=lambda rows: random.sample(rows, 2)))
        True
    """
    index = [i * len(pool) // PROBED for i in range(PROBED)]
    with seeded(0):
        before = _position()
        PoolFetch(pool, seed=None).__getitems__((0, index, []))
        return _position() != before


def as_it_is(batch: object) -> object:
    """Return what was collated already."""
    return batch


def _position() -> tuple[object, ...]:
    """Return where the three global generators stand."""
    numpy_state = [np.asarray(part).tolist() for part in np.random.get_state()]  # noqa: NPY002
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()
