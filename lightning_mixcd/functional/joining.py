"""Join a finetune batch and a pool batch into one batch of the same structure.

A batch is a tensor, a mapping, a list, a tuple, a named tuple or a dataclass instance, nested at
will. Its leaves are

* tensors: rows along dim 0;
* lists and tuples without a tensor or structure in them, such as a list of strings: one row per item;
* constants: 0-dim tensors, and every other single value.

A list of tensors or structures is read as `default_collate` writes it: one entry per field, not one
entry per row.
"""

import copy
import reprlib
from collections.abc import Hashable, Iterator, Mapping
from operator import attrgetter
from typing import TypeVar, cast

import torch
from torch import Tensor

from lightning_mixcd.errors import JoinError
from lightning_mixcd.functional._padding import pad_alike
from lightning_mixcd.functional._structure import Place, children, is_sequence, rebuild

__all__ = ["agreed_rows", "join", "n_rows", "pick_rows", "split_rows", "take_rows", "unshared"]

Batch = TypeVar("Batch")
_Rows = Tensor | list[object] | tuple[object, ...]

_TRAITS = ("ndim", "dtype", "device", "layout", "is_nested")
_traits = attrgetter(*_TRAITS)

_NOTHING = (
    "Leave it out of the pool's batches; where a loader of a `CombinedLoader` has ended, take "
    'mode="max_size_cycle".'
)
_MATCH = "Make the pool's dataset or `collate_fn` give what the finetune batch has."


def n_rows(batch: object) -> int:
    """Count the rows of a batch.

    Args:
        batch: Any structure described in this module.

    Returns:
        Size of dim 0 of the first tensor, or the length of the first list of plain rows where no
        tensor has rows. Other leaves are not compared with it; `join` and `take_rows` do that.

    Raises:
        JoinError: If nothing in the batch has rows.

    Example:
        >>> n_rows({"texts": ["a", "b", "c"], "task": "nli"})
        3
    """
    # The usual batches, at a glance: this runs several times in every step.
    parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, tuple | list) else ()
    first = next(iter(parts), None)
    if isinstance(first, Tensor) and first.ndim:
        return first.shape[0]
    plain: int | None = None
    for leaf in _leaves(batch):
        if isinstance(leaf, Tensor):
            return len(leaf)
        plain = len(leaf) if plain is None else plain
    return len(_row_leaves(batch, "batch")[0][1]) if plain is None else plain


def agreed_rows(batch: object, side: str) -> int:
    """Count the rows of a batch, and compare all its leaves.

    Args:
        batch: Any structure described in this module.
        side: What to call it.

    Returns:
        Size of dim 0 of each tensor, and length of each list of plain rows.

    Raises:
        JoinError: If nothing has rows or the leaves disagree about their number.
    """
    lengths = [len(leaf) for leaf in _leaves(batch)]
    if lengths and lengths.count(lengths[0]) == len(lengths):
        return lengths[0]
    leaves = _row_leaves(batch, side)
    first, rows = leaves[0][0], len(leaves[0][1])
    for place, leaf in leaves:
        if len(leaf) != rows:
            msg = (
                f"All leaves of the {side} must have the same number of rows, got {rows} in {first.path} and "
                f"{len(leaf)} in {place.path}. Let `collate_fn` stack one entry per sample, and make what "
                f"is not per sample a single number, string or 0-dim tensor."
            )
            raise JoinError(msg)
    return rows


def join(finetune: Batch, pool: object, *, pad_values: Mapping[str, float] | None = None) -> Batch:
    """Append the rows of a pool batch to those of a finetune batch.

    Tensors whose dim 1 differs are taken for sequences: the shorter one is padded on the right, the
    longer one is never cut. The value comes from `pad_values`; without one, integer and bool tensors of
    two dims get what Hugging Face collators use (-100 for `labels`, 1 for `special_tokens_mask`, 0 for
    `attention_mask`, `decoder_attention_mask`, `position_ids` and `token_type_ids`).

    Constants must be equal on both sides; of 0-dim tensors the finetune one is kept unread, because
    comparing would wait for the device. Whatever a mapping holds beside its items, such as the
    `encodings` of a `BatchEncoding`, stays that of `finetune`.

    Args:
        finetune: Finetune batch with B rows; not changed.
        pool: Pool batch with R rows and the same structure; not changed.
        pad_values: Fill values by mapping key or field name (the innermost one), or by path, such as
            `'batch[0]'`, where tuples give no name.

    Returns:
        A batch of the structure of `finetune` with B + R rows, finetune rows first.

    Raises:
        JoinError: If structures, dtypes, devices, trailing shapes or constants differ, if rows
            disagree within a batch, or if sequences differ in length and no fill value is known.

    Example:
        >>> import torch
        >>> finetune = {"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([1])}
        >>> pool = {"input_ids": torch.tensor([[8, 9]]), "labels": torch.tensor([0])}
        >>> join(finetune, pool, pad_values={"input_ids": 0})["input_ids"]
        tensor([[5, 6, 7],
                [8, 9, 0]])
    """
    joiner = _Joiner(pad_values or {})
    joined = joiner.join(finetune, pool, Place())
    if not joiner.rows or 0 in joiner.rows[0] or joiner.rows.count(joiner.rows[0]) != len(joiner.rows):
        # Find out where; an empty list has no rows to disagree with, until the other side appends some.
        for batch, side in ((finetune, "finetune batch"), (pool, "pool batch"), (joined, "joined batch")):
            agreed_rows(batch, side)
    return cast("Batch", joined)


def take_rows(batch: Batch, start: int, stop: int) -> Batch:
    """Take rows `start` to `stop` (exclusive) of every leaf.

    Args:
        batch: Any structure described in this module; not changed.
        start: First row, 0 or more.
        stop: End of the rows, at most the number of rows.

    Returns:
        A batch of the same structure with `stop - start` rows. Tensors are views, constants are kept.

    Raises:
        ValueError: If `start` and `stop` are not a range within the rows.
        JoinError: If nothing has rows or the leaves disagree about their number.

    Example:
        >>> import torch
        >>> take_rows((torch.arange(4), ["a", "b", "c", "d"]), 2, 4)
        (tensor([2, 3]), ['c', 'd'])
    """
    rows = agreed_rows(batch, "batch")
    if not 0 <= start <= stop <= rows:
        msg = (
            f"`start` and `stop` must satisfy 0 <= start <= stop <= {rows} (the rows of the batch), "
            f"got {start} and {stop}. Count the rows with `n_rows`."
        )
        raise ValueError(msg)
    return cast("Batch", _take(batch, slice(start, stop)))


def split_rows(batch: Batch, size: int) -> list[Batch]:
    """Cut a batch into batches, as `take_rows` does.

    Args:
        batch: Any structure described in this module; not changed.
        size: Rows of each, at least 1; the last one has what is left.

    Returns:
        Batches of the same structure. Tensors are views, constants are kept.

    Raises:
        JoinError: If nothing has rows or the leaves disagree about their number.

    Example:
        >>> import torch
        >>> split_rows((torch.arange(3), ["a", "b", "c"]), 2)
        [(tensor([0, 1]), ['a', 'b']), (tensor([2]), ['c'])]
    """
    rows = agreed_rows(batch, "batch")
    return [cast("Batch", _take(batch, slice(start, start + size))) for start in range(0, rows, size)]


def pick_rows(batch: Batch, index: Tensor) -> Batch:
    """Pick rows of every leaf, in any order.

    Lists of plain rows, such as strings, are picked from on the host, which waits for `index`.

    Args:
        batch: Any structure described in this module; not changed.
        index: Which rows, int64, `(n,)`, on the device of the batch.

    Returns:
        A batch of the same structure with n rows; constants are kept.

    Example:
        >>> import torch
        >>> pick_rows((torch.arange(4), ["a", "b", "c", "d"]), torch.tensor([3, 0]))
        (tensor([3, 0]), ['d', 'a'])
    """
    return cast("Batch", _take(batch, index))


def unshared(batch: Batch) -> Batch:
    """Copy a batch, so that what is done to the copy is not done to it.

    Args:
        batch: Any structure described in this module.

    Returns:
        The same with structures and tensors of its own; tensors keep their graph.

    Example:
        >>> import torch
        >>> batch = {"x": torch.zeros(2)}
        >>> unshared(batch)["x"].add_(1)
        tensor([1., 1.])
        >>> batch
        {'x': tensor([0., 0.])}
    """
    if isinstance(batch, Tensor):
        return cast("Batch", batch.clone())
    parts = children(batch)
    if parts is not None:
        return cast("Batch", rebuild(batch, {key: unshared(part) for key, part in parts.items()}))
    return cast("Batch", copy.copy(batch)) if is_sequence(batch) else batch


def _row_leaves(batch: object, side: str) -> list[tuple[Place, _Rows]]:
    leaves = list(_walk(batch, Place()))
    if not leaves:
        msg = (
            f"The {side} must hold a tensor with rows or a list of rows, got {reprlib.repr(batch)}. "
            f"Let `collate_fn` return tensors, or mappings, tuples or dataclasses of them."
        )
        raise JoinError(msg)
    return leaves


def _leaves(node: object) -> Iterator[_Rows]:
    """Walk as `_walk` does, without noting the places, which only error messages need."""
    if isinstance(node, Tensor):
        if node.ndim:
            yield node
    elif (parts := children(node)) is not None:
        for part in parts.values():
            yield from _leaves(part)
    elif is_sequence(node) and node:
        yield node


def _walk(node: object, place: Place) -> Iterator[tuple[Place, _Rows]]:
    parts = children(node)
    if parts is not None:
        for key, part in parts.items():
            yield from _walk(part, Place(place, node, key))
    elif (isinstance(node, Tensor) and node.ndim) or (is_sequence(node) and node):
        yield place, node


def _take(node: object, rows: slice | Tensor) -> object:
    if isinstance(node, Tensor):
        return node[rows] if node.ndim else node
    parts = children(node)
    if parts is not None:
        return rebuild(node, {key: _take(part, rows) for key, part in parts.items()})
    if not is_sequence(node):
        return node
    return type(node)(node[rows] if isinstance(rows, slice) else [node[i] for i in rows.tolist()])


class _Joiner:
    """Joins part by part, and notes how many rows each leaf has on either side."""

    def __init__(self, pad_values: Mapping[str, float]) -> None:
        self.pad_values = pad_values
        self.rows: list[tuple[int, int]] = []

    def join(self, finetune: object, pool: object, place: Place) -> object:
        if isinstance(finetune, Tensor) and isinstance(pool, Tensor):
            return self._join_tensors(finetune, pool, place)
        parts, pool_parts = children(finetune), children(pool)
        if type(finetune) is not type(pool) or (parts is None) != (pool_parts is None):
            remedy = _MATCH if finetune is not None else _NOTHING
            raise place.mismatch(_kind(finetune), _kind(pool), remedy)
        if parts is None or pool_parts is None:
            return self._join_leaves(finetune, pool, place)
        if parts.keys() != pool_parts.keys():
            raise _other_keys(parts, pool_parts, place)
        joined = {
            key: self.join(part, pool_parts[key], Place(place, finetune, key)) for key, part in parts.items()
        }
        return rebuild(finetune, joined)

    def _join_leaves(self, finetune: object, pool: object, place: Place) -> object:
        if is_sequence(finetune) and is_sequence(pool):
            self.rows.append((len(finetune), len(pool)))
            return type(finetune)([*finetune, *pool])
        # What can be hashed compares without touching tensors.
        if finetune is pool or (isinstance(finetune, Hashable) and finetune == pool):
            return finetune
        remedy = "Drop it in `collate_fn`, or make it a tensor or list with one entry per row."
        raise place.mismatch(reprlib.repr(finetune), reprlib.repr(pool), remedy)

    def _join_tensors(self, finetune: Tensor, pool: Tensor, place: Place) -> Tensor:
        if finetune.ndim == 0 and pool.ndim == 0:
            return finetune
        if _traits(finetune) != _traits(pool):
            raise _other_traits(finetune, pool, place)
        if finetune.is_nested:
            msg = f"{place.path} must be a tensor of one shape, got nested tensors."
            raise JoinError(f"{msg} Let `collate_fn` pad them.")
        mine, other = finetune.shape, pool.shape
        self.rows.append((mine[0], other[0]))
        if mine[1:] == other[1:]:
            return torch.cat((finetune, pool))
        if mine[2:] != other[2:]:
            remedy = f"All dims but the first must agree. {_MATCH} Lengths in dim 2 or later: pad all to one."
            raise place.mismatch(_shape(finetune), _shape(pool), remedy)
        return torch.cat(pad_alike(finetune, pool, place, self.pad_values))


def _kind(value: object) -> str:
    of = ""
    if is_sequence(value):
        of = f" of {len(value)} plain rows" if children(value) is None else f" of {len(value)} parts"
    return f"a {type(value).__module__}.{type(value).__qualname__}".replace("builtins.", "") + of


def _other_keys(
    finetune: Mapping[Hashable, object], pool: Mapping[Hashable, object], place: Place
) -> JoinError:
    missing = [key for key in finetune if key not in pool]
    surplus = [key for key in pool if key not in finetune]
    problems = [f"lacks {missing}"] if missing else []
    problems += [f"has {surplus} too many"] if surplus else []
    remedy = f"The pool batch {' and '.join(problems)}. {_MATCH}"
    if all(isinstance(key, int) for key in (missing or surplus)):
        remedy += " If these are rows, stack or pad them: a list of tensors is read as one entry per field."
    return place.mismatch(f"the parts {list(finetune)}", f"the parts {list(pool)}", remedy)


def _other_traits(finetune: Tensor, pool: Tensor, place: Place) -> JoinError:
    both = zip(_TRAITS, _traits(finetune), _traits(pool), strict=True)
    trait, mine, other = next(found for found in both if found[1] != found[2])
    remedies = {
        "dtype": f"Cast in the pool's dataset or `collate_fn`, for example with `.to({mine})`.",
        "device": f"Move the pool batch to {mine} before it is joined.",
    }
    return place.mismatch(f"{trait} {mine}", f"{trait} {other}", remedies.get(trait, _MATCH))


def _shape(tensor: Tensor) -> str:
    return f"shape {tuple(tensor.shape)}"
