"""Fetching that neither uses nor disturbs the training run's randomness."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset, default_collate

from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.ledger.pool_fingerprint import keep_global_rng

__all__ = ["SeededFetch", "seeded"]


@contextmanager
def seeded(key: int) -> Iterator[None]:
    """Seed Python, NumPy and torch (CPU) for a while, and put their states back afterwards.

    Args:
        key: The seed, in `[0, 2**64)`.

    Example:
        >>> with seeded(1):
        ...     a = torch.rand(1)
        >>> with seeded(1):
        ...     b = torch.rand(1)
        >>> bool(a == b)
        True
    """
    with keep_global_rng():
        random.seed(key)
        np.random.seed(key % 2**32)  # noqa: NPY002
        torch.default_generator.manual_seed(key)
        yield


class SeededFetch(Dataset[Any]):
    """Fetches and collates the samples of one draw under a seed of their own.

    Random augmentation in the pool and random masking in its collate function then depend on the draw alone:
    not on the number of workers, not on whether the run was resumed; and the finetune order and dropout are
    those of a run without rehearsal.

    Args:
        dataset: The pool.
        collate_fn: Makes a batch of samples; torch's default if None.
        seed: Seed of the run on this rank; None where nothing needs one.

    Example:
        >>> SeededFetch(["a", "b", "c"], seed=0).__getitems__((5, [2, 0]))
        ['c', 'a']
    """

    def __init__(
        self, dataset: Dataset[Any], collate_fn: Callable[[list[Any]], Any] | None = None, *, seed: int | None
    ) -> None:
        self.dataset, self.collate_fn, self.seed = dataset, collate_fn or default_collate, seed
        # Picked all at once, rows in memory take a fraction of the time, and are the same.
        whole = type(dataset) is TensorDataset and self.collate_fn is default_collate
        self._tensors = cast("TensorDataset", dataset).tensors if whole else None

    def __getitems__(self, request: tuple[int, list[int]]) -> object:
        """Return the batch of a draw.

        Args:
            request: Number of the draw, and the pool indices to fetch.

        Returns:
            The samples, in order and collated.
        """
        draw, index = request
        if self.seed is None:
            return self._fetch(index)
        with seeded(stream_key(self.seed, draw)):
            return self._fetch(index)

    def _fetch(self, index: list[int]) -> object:
        if self._tensors is not None:
            rows = torch.tensor(index)
            return [tensor[rows] for tensor in self._tensors]
        fetch = getattr(self.dataset, "__getitems__", None)
        samples = fetch(index) if fetch else [self.dataset[i] for i in index]
        return self.collate_fn(samples)
