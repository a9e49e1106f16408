"""Fingerprint of a model: are these the weights that the ledger was made with?"""

import hashlib
import math
from typing import Any

from torch import Tensor, nn

from lightning_mixcd.ledger.digest import tensor_bytes
from lightning_mixcd.ledger.documents import Document

__all__ = ["fingerprint_model", "model_difference"]

# Reading every byte of a 7B model takes minutes and moves 14 GB off the device; training moves nearly every
# weight, so a few thousand per tensor tell two checkpoints apart just as well.
_MOST_ELEMENTS = 4096
_NAMED = 3


def fingerprint_model(module: nn.Module) -> Document:
    """Fingerprint a model by name, shape, dtype and content of everything in its `state_dict`.

    Tensors of up to 4096 elements are read in full, larger ones at up to 4096 evenly strided places; a change
    confined to places between is not seen. Device, memory format and `torch.compile` make no difference. The
    content of tensors on the meta device is left out. Where tensors are sharded, all processes must come here
    together. An adapter of this library that does nothing yet makes no difference either.

    Args:
        module: The base model.

    Returns:
        JSON-able: `tensors`, name to `dtype`, `shape` and `digest`.

    Example:
        >>> fingerprint_model(nn.Linear(2, 3))["tensors"]["weight"]["shape"]
        [3, 2]
    """
    tensors = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    tensors = _without_idle_adapters(tensors)
    # `torch.compile` wraps a module, or any part of one, and puts this into the names below it.
    return {
        "tensors": {name.replace("_orig_mod.", ""): _describe(tensor) for name, tensor in tensors.items()}
    }


def model_difference(recorded: Document, given: Document) -> str | None:
    """Say how two models differ, by their fingerprints.

    Args:
        recorded: Fingerprint of the model the ledger was made with.
        given: Fingerprint of the model at hand.

    Returns:
        What differs (architecture, precision or weights, the first that does), or None.
    """
    before, now = recorded["tensors"], given["tensors"]
    found = [
        f"`{name}` {_show(before, name)} vs {_show(now, name)}"
        for name in sorted(before.keys() | now.keys())
        if _show(before, name) != _show(now, name)
    ]
    if found:
        return f"other architecture: {_enumerate(found)}"
    found = [
        f"`{name}` {before[name]['dtype']} vs {now[name]['dtype']}"
        for name in before
        if before[name]["dtype"] != now[name]["dtype"]
    ]
    if found:
        return f"same architecture, other precision: {_enumerate(found)}"
    found = [f"`{name}`" for name in before if _changed(before[name], now[name])]
    if found:
        share = f"{len(found)} of {len(before)} tensors differ"
        return f"same architecture, other weights: {share}, {_enumerate(found)}"
    return None


# Adapters put parts of such names into a module, and begin with zeros in those that decide what they do.
def _without_idle_adapters(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    added = [name for name in tensors if any(part.startswith("mixcd") for part in name.split("."))]
    deciding = [tensors[name] for name in added if ".lora_B." in name or name.endswith("values")]
    if any(not tensor.is_meta and tensor.any() for tensor in deciding):
        return tensors
    # `peft` puts a layer of its own in the place of one that it wraps.
    wrapped = {name.partition(".lora_")[0] for name in added if ".lora_" in name}
    names = {name: name.rpartition(".base_layer.") for name in tensors if name not in added}
    return {
        f"{layer}.{own}" if layer in wrapped else name: tensors[name]
        for name, (layer, _, own) in names.items()
    }


def _describe(tensor: Tensor) -> Document:
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "digest": None if tensor.is_meta else _digest(tensor),
    }


def _digest(tensor: Tensor) -> str:
    stride = _stride(tensor.numel(), tensor.shape[-1] if tensor.ndim else 1)
    # A `DTensor` is gathered from the processes that hold its shards.
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    places = whole.detach().reshape(-1)[::stride]
    return hashlib.blake2b(tensor_bytes(places), digest_size=8).hexdigest()


# A step that shares a factor with the row length would read the same few columns in every row.
def _stride(n_elements: int, width: int) -> int:
    stride = math.ceil(n_elements / _MOST_ELEMENTS) or 1
    while stride > 1 and math.gcd(stride, width) > 1:
        stride += 1
    return stride


def _show(tensors: dict[str, Any], name: str) -> str:
    return str(tuple(tensors[name]["shape"])) if name in tensors else "absent"


def _changed(before: Document, now: Document) -> bool:
    known = before["digest"] is not None and now["digest"] is not None
    return known and before["digest"] != now["digest"]


def _enumerate(found: list[str]) -> str:
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(found[:_NAMED]) + more
