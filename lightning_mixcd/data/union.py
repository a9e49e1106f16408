"""One pool of several: what the earlier stages of a chain learnt from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import ConcatDataset, Dataset, default_collate

from lightning_mixcd.data.pool import Pool, as_pool
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.functional.joining import join
from lightning_mixcd.ledger.pool_fingerprint import keep_global_rng

__all__ = ["union_pool"]

SETTINGS = ("collate_fn", "num_workers", "lag", "random", "pad_values", "unreadable")


def union_pool(pools: Mapping[str, Pool | Dataset[Any]]) -> tuple[Pool, npt.NDArray[np.str_]]:
    """Put pools one behind the other.

    A sample's index is its index within its own pool plus the sizes of the pools before. Ledgers of the parts
    tell what earlier models had right; record one of the whole with the model that is to be finetuned now.

    Args:
        pools: Name of each part, such as the stage that learnt from it, to its samples; in an order that
            stays.

    Returns:
        The pool, and the name of the part that each of its N samples is from, `(N,)`, which
        `record_ledger(columns={"stage": ...})` keeps for partitions.

    Raises:
        TypeError: If the parts have no names, or one is made of `Streams`.
        ValueError: If there is no part, settings of the parts differ, or their samples cannot share a batch.

    Example:
        >>> pool, stage = union_pool({"base": range(3), "first": range(10, 12)})
        >>> [pool.dataset[index] for index in range(5)], stage.tolist()
        ([0, 1, 2, 10, 11], ['base', 'base', 'base', 'first', 'first'])
    """
    if not isinstance(pools, Mapping):
        raise TypeError(
            f"`pools` must name each part, got {type(pools).__name__}. Pass a mapping, such as "
            '{"base": pool, "first": other}.'
        )
    if not pools:
        raise ValueError("`pools` must hold at least one pool, got none.")
    parts = {name: as_pool(pool) for name, pool in pools.items()}
    for name, pool in parts.items():
        if isinstance(pool.dataset, Streams):
            raise TypeError(
                f"`pools` must be map-style, got `Streams` for {name!r}. Put all streams into one `Streams`."
            )
    first, *others = parts
    for other in others:
        _check_alike(first, other, parts)
    stage = np.repeat(np.array([*parts]), [len(pool) for pool in parts.values()])
    return replace(parts[first], dataset=ConcatDataset([pool.dataset for pool in parts.values()])), stage


def _check_alike(first: str, other: str, parts: Mapping[str, Pool]) -> None:
    mine, its = parts[first], parts[other]
    for name in SETTINGS:
        one, two = getattr(mine, name), getattr(its, name)
        if name == "collate_fn":
            one, two = one or default_collate, two or default_collate
        if one != two:
            raise ValueError(
                f"`pools` must have one `{name}`, got {one!r} for {first!r} and {two!r} for {other!r}. Give "
                "all of them the same; dataclasses.replace(pool, ...) makes a pool with other settings."
            )
    collate = mine.collate_fn or default_collate
    try:
        with keep_global_rng():
            samples = [pool.dataset[0] for pool in (mine, its)]
            collate(samples)
            join(*(collate([sample]) for sample in samples), pad_values=_AnyLength(anything=0.0))
    except Exception as error:
        raise ValueError(
            f"`pools` must have samples that can share a batch, but those of {first!r} (called finetune "
            f"here) and {other!r} cannot: {error}"
        ) from error


class _AnyLength(dict[str, float]):
    """Pads everything, as how to pad is the collate function's business."""

    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> float:
        return 0.0
