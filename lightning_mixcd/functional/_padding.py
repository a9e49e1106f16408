"""Bring sequences of two batches to one length; for `joining`."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_mixcd.errors import JoinError
from lightning_mixcd.functional._structure import Place

__all__ = ["pad_alike"]

# What Hugging Face collators fill in; `input_ids` is absent because its value depends on the tokenizer.
_PAD_VALUES: Mapping[str, float] = {
    "attention_mask": 0,
    "decoder_attention_mask": 0,
    "labels": -100,
    "position_ids": 0,
    "special_tokens_mask": 1,
    "token_type_ids": 0,
}


def pad_alike(
    finetune: Tensor, pool: Tensor, place: Place, pad_values: Mapping[str, float]
) -> tuple[Tensor, Tensor]:
    """Pad the shorter of two tensors on the right of dim 1.

    Args:
        finetune: Finetune sequences, `(B, L, ...)`.
        pool: Pool sequences, `(R, M, ...)`, of the same dtype.
        place: Where they sit in the batch.
        pad_values: Fill values by path or name; the built-in ones are used where it has none and both
            tensors are `(rows, length)`. Of more dims, dim 1 may count answers to choose from.

    Returns:
        Both tensors with `max(L, M)` positions.

    Raises:
        JoinError: If no fill value is known, or the dtype cannot hold it.

    Example:
        >>> masks = torch.ones(1, 3, dtype=torch.long), torch.ones(1, 2, dtype=torch.long)
        >>> pad_alike(*masks, Place(Place(), {}, "attention_mask"), {})[1]
        tensor([[1, 1, 0]])
    """
    value = _known_value(finetune, place, pad_values)
    if value is None:
        remedy = _how_to_pad(finetune, place)
        raise place.mismatch(f"length {finetune.shape[1]}", f"length {pool.shape[1]}", remedy)
    _check_holds(finetune.dtype, value, place)
    length = max(finetune.shape[1], pool.shape[1])
    return _pad_to(finetune, length, value), _pad_to(pool, length, value)


def _known_value(tensor: Tensor, place: Place, pad_values: Mapping[str, float]) -> float | None:
    name = place.name or ""
    if place.path in pad_values or name in pad_values:
        return pad_values[place.path if place.path in pad_values else name]
    # A float mask is added to scores, and 0 would show the padding to the model; float labels are
    # no class numbers, and -100 would be learnt.
    unfit = tensor.is_floating_point() or tensor.is_complex() or tensor.ndim > 2
    return None if unfit else _PAD_VALUES.get(name)


def _how_to_pad(tensor: Tensor, place: Place) -> str:
    key = place.path if place.name is None else place.name
    remedy = (
        f"Pass `Pool(..., pad_values={{{key!r}: ...}})` with the value your collator pads with, or give all "
        "samples one length, as a model needs that reads the last position: padding is added on the right."
    )
    if tensor.ndim > 2:
        remedy += " Where these are answers to choose from, give all samples as many: padding would be one."
    return remedy


def _check_holds(dtype: torch.dtype, value: float, place: Place) -> None:
    if dtype.is_floating_point or dtype.is_complex:
        return
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if not (float(value).is_integer() and low <= value <= high):
        msg = (
            f"The value that pads {place.path} must be a whole number from {low} to {high} ({dtype}), "
            f"got {value}. Pass another one in `pad_values`, or give both batches a wider dtype."
        )
        raise JoinError(msg)


def _pad_to(tensor: Tensor, length: int, value: float) -> Tensor:
    missing = length - tensor.shape[1]
    return pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, missing), value=value) if missing else tensor
