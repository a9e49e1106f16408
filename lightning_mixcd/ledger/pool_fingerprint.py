"""Fingerprint of a pool: is this the data set that the ledger was made from?"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from lightning_mixcd.errors import PoolError, unreadable_sample
from lightning_mixcd.ledger.digest import Digest, digest_sample
from lightning_mixcd.ledger.documents import Document

__all__ = ["fingerprint_pool", "pool_difference"]

_PROBES = 64
# A pool of fewer samples is read more than twice, so that a coin-flip augmentation is noticed there too.
_LEAST_READS = 128
# Of a sample that cannot be read; compared with nothing.
_UNREAD = Digest("", "")


def fingerprint_pool(
    pool: Dataset[Any] | Sequence[Any], *, unreadable: Literal["raise", "skip"] = "raise"
) -> Document:
    """Fingerprint a pool by its size and up to 64 evenly spaced samples.

    Every probed sample is read at least twice. If one of them differs between reads, a random transform is at
    work: then content is left out and types, shapes and dtypes are compared; if these differ too, size alone.
    Global random state is left as it was. A change confined to samples between the probes is not seen.

    Args:
        pool: Map-style dataset or list of N samples.
        unreadable: What to do where the pool raises an error for a probed sample: "raise", or "skip" it.

    Returns:
        JSON-able: `size`; `structure` and `values`, each a digest per probed sample or None.

    Raises:
        TypeError: If the pool has no length or cannot be indexed.
        ValueError: If the pool is empty.
        PoolError: If a probed sample cannot be read.

    Example:
        >>> pool = [(torch.tensor([i]), i % 2) for i in range(100)]
        >>> fingerprint = fingerprint_pool(pool)
        >>> fingerprint["size"], len(fingerprint["values"])
        (100, 64)
    """
    size = _size_of(pool)
    probes = _probed_indices(size)
    with keep_global_rng():
        n_reads = max(2, _LEAST_READS // len(probes))
        reads = [[_digest(pool, index, unreadable) for index in probes] for _ in range(n_reads)]
    return {
        "size": size,
        "structure": _stable([[digest.structure for digest in read] for read in reads]),
        "values": _stable([[digest.values for digest in read] for read in reads]),
    }


def pool_difference(recorded: Document, given: Document) -> str | None:
    """Say how two pools differ, by their fingerprints.

    Args:
        recorded: Fingerprint of the pool the ledger is of.
        given: Fingerprint of the pool at hand.

    Returns:
        What differs, or None if nothing is seen to differ.
    """
    if recorded["size"] != given["size"]:
        return f"size: {recorded['size']} vs {given['size']}"
    for aspect, label in (("structure", "types, shapes or dtypes"), ("values", "content")):
        # Random transforms on either side leave no stable content to compare.
        if recorded[aspect] is None or given[aspect] is None:
            continue
        pairs = zip(_probed_indices(recorded["size"]), recorded[aspect], given[aspect], strict=True)
        changed = [index for index, before, now in pairs if before != now and before and now]
        if changed:
            return (
                f"{label}: {len(changed)} of {len(given[aspect])} probed samples differ, "
                f"the first at pool index {changed[0]}"
            )
    return None


@contextmanager
def keep_global_rng() -> Iterator[None]:
    """Put the global random states of Python, NumPy and torch (CPU) back afterwards.

    Yields:
        Nothing; draws inside leave no trace outside.

    Example:
        >>> state = random.getstate()
        >>> with keep_global_rng():
        ...     _ = random.random()
        >>> random.getstate() == state
        True
    """
    python, array, tensor = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        # The user's transforms may draw from NumPy's legacy state, so that is the one to keep.
        np.random.set_state(array)  # noqa: NPY002
        torch.set_rng_state(tensor)


def _size_of(pool: Any) -> int:  # noqa: ANN401 - refuses what is no pool
    indexed = hasattr(pool, "__getitem__") and not isinstance(pool, IterableDataset)
    if not indexed or not hasattr(pool, "__len__"):
        raise TypeError(
            f"`pool` must be map-style, with `__len__` and `__getitem__`, got {type(pool).__name__}; "
            "rehearsal draws samples by index. Collect the samples once, for example `pool=list(stream)`."
        )
    if len(pool) == 0:
        raise ValueError("`pool` must hold at least one sample, got 0. Check its path, split or filter.")
    return len(pool)


def _digest(pool: Any, index: int, unreadable: str) -> Digest:  # noqa: ANN401 -- see `_size_of`
    try:
        sample = pool[index]
    except Exception as error:
        if unreadable == "skip":
            return _UNREAD
        raise PoolError(unreadable_sample(index, pool, error)) from error
    return digest_sample(sample)


# Evenly spread, first and last sample included.
def _probed_indices(size: int) -> list[int]:
    probes = min(size, _PROBES)
    return [probe * (size - 1) // max(probes - 1, 1) for probe in range(probes)]


def _stable(reads: list[list[str]]) -> list[str] | None:
    return reads[0] if all(read == reads[0] for read in reads) else None
