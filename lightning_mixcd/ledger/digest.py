"""Digests of arbitrary samples: nested containers of tensors, arrays, numbers and text.

A sample is walked in a fixed order. Each leaf yields a token (type, dtype, shape) and its bytes; tokens alone
make the *structure* digest, tokens and bytes the *values* digest. Types that are unknown here can be taught:

>>> import fractions
>>> @leaves.register
... def _(value: fractions.Fraction):
...     yield "fraction", str(value).encode()
>>> digest_sample(fractions.Fraction(1, 2)) == digest_sample(fractions.Fraction(2, 4))
True
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from functools import singledispatch
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Digest", "digest_sample", "leaves", "tensor_bytes"]


class Digest(NamedTuple):
    """Two digests of one sample, 16 hexadecimal digits each.

    Args:
        structure: Of types, shapes and dtypes.
        values: Of these and the content.
    """

    structure: str
    values: str


def digest_sample(sample: object) -> Digest:
    """Digest one sample.

    Args:
        sample: Whatever a dataset returns.

    Returns:
        Its digests, the same on every device and in every process.

    Example:
        >>> digest_sample({"a": 1, "b": torch.ones(2)}) == digest_sample({"b": torch.ones(2), "a": 1})
        True
        >>> digest_sample([1]).structure == digest_sample([2]).structure
        True
    """
    structure, values = hashlib.blake2b(digest_size=8), hashlib.blake2b(digest_size=8)
    for token, content in leaves(sample):
        head = token.encode() + b"\0"
        structure.update(head)
        # With its length in front, content cannot run over into the next leaf.
        values.update(head + len(content).to_bytes(8, "little") + content)
    return Digest(structure.hexdigest(), values.hexdigest())


def tensor_bytes(tensor: Tensor) -> bytes:
    """Read the raw bytes of a tensor in logical order.

    Args:
        tensor: Any shape, dtype (bfloat16 and float8 too, which NumPy lacks), device and memory format.

    Returns:
        Its bytes.
    """
    return tensor.detach().reshape(-1).cpu().contiguous().view(torch.uint8).numpy().tobytes()


@singledispatch
def leaves(value: Any) -> Iterator[tuple[str, bytes]]:  # noqa: ANN401 - open to every type by design
    """Walk a sample; the fallback for types not registered.

    Dataclasses are walked by field. Objects with `tobytes` (images) are read by it. Of anything else only the
    type counts: its bytes in memory may differ between equal objects.

    Args:
        value: Sample, or part of one.

    Yields:
        Token and content per leaf.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from leaves({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
        return
    # The name without its module: classes move between releases.
    name = type(value).__qualname__
    if callable(getattr(value, "tobytes", None)):
        # The same bytes make another picture at another width.
        yield f"{name} {getattr(value, 'mode', '')} {getattr(value, 'size', '')}", bytes(value.tobytes())
    else:
        yield name, b""


@leaves.register
def _(value: Tensor) -> Iterator[tuple[str, bytes]]:
    dense = value if value.layout is torch.strided else value.to_dense()
    yield f"tensor {value.dtype} {tuple(value.shape)}", tensor_bytes(dense)


@leaves.register(np.ndarray)
@leaves.register(np.generic)
def _(value: np.ndarray[Any, Any] | np.generic) -> Iterator[tuple[str, bytes]]:
    yield f"array {value.dtype.str} {value.shape}", b"" if value.dtype.hasobject else value.tobytes()
    # The bytes of an object array are addresses, which differ in every process.
    if value.dtype.hasobject:
        yield from leaves(value.tolist())


@leaves.register(int)
@leaves.register(float)
@leaves.register(complex)
@leaves.register(type(None))
def _(value: complex | None) -> Iterator[tuple[str, bytes]]:
    yield type(value).__name__, repr(value).encode()


@leaves.register
def _(value: str) -> Iterator[tuple[str, bytes]]:
    yield "str", value.encode("utf-8", "surrogatepass")


@leaves.register(bytes)
@leaves.register(bytearray)
def _(value: bytes | bytearray) -> Iterator[tuple[str, bytes]]:
    yield "bytes", bytes(value)


@leaves.register(Mapping)
def _(value: Mapping[Any, Any]) -> Iterator[tuple[str, bytes]]:
    yield f"mapping {len(value)} {sorted(map(repr, value))}", b""
    for key in sorted(value, key=repr):
        yield from leaves(value[key])


@leaves.register(list)
@leaves.register(tuple)
def _(value: list[Any] | tuple[Any, ...]) -> Iterator[tuple[str, bytes]]:
    yield f"sequence {len(value)}", b""
    for part in value:
        yield from leaves(part)
