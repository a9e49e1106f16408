"""Take batch structures apart, and make them again from other parts; for `joining`."""

import copy
import dataclasses
from collections import UserDict
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeGuard, cast

from torch import Tensor

from lightning_mixcd.errors import JoinError

__all__ = ["Place", "children", "is_sequence", "rebuild"]


class Place(NamedTuple):
    """Where a value sits in a batch, as the way down to it; the default is the batch itself.

    Args:
        parent: The place of the structure that holds the value.
        node: That structure.
        key: What `children` calls the value there.

    Example:
        >>> batch = {"labels": 0}
        >>> Place(Place(), batch, "labels").path
        'batch["labels"]'
    """

    parent: "Place | None" = None
    node: object = None
    key: Hashable = None

    @property
    def path(self) -> str:
        """How a reader would write the value down, such as `batch["labels"]` or `batch[1].x`."""
        if self.parent is None:
            return "batch"
        if not isinstance(self.key, str):
            return f"{self.parent.path}[{self.key!r}]"
        step = f'["{self.key}"]' if isinstance(self.node, Mapping) else f".{self.key}"
        return self.parent.path + step

    @property
    def name(self) -> str | None:
        """Innermost mapping key or field name on the way down; None where there is none."""
        if self.parent is None or isinstance(self.key, str):
            return cast("str | None", self.key)
        return self.parent.name

    def mismatch(self, finetune: str, pool: str, remedy: str) -> JoinError:
        """Say that the two batches differ at this place.

        Args:
            finetune: What the finetune batch has.
            pool: What the pool batch has.
            remedy: What the user can do about it.

        Returns:
            The error to raise.
        """
        return JoinError(
            f"{self.path} must be alike in both batches, got {finetune} in the finetune batch "
            f"and {pool} in the pool batch. {remedy}"
        )


def is_sequence(value: object) -> TypeGuard[list[object] | tuple[object, ...]]:
    """Tell lists and tuples from other values.

    Args:
        value: Anything.

    Returns:
        Whether it is a list or a tuple.
    """
    return isinstance(value, list | tuple)


def children(node: object) -> dict[Hashable, object] | None:
    """Take a structure apart.

    A list or tuple is a leaf when it holds no tensor and no other structure; a named tuple never is.
    Dataclass fields with `init=False` are no parts, because `__post_init__` makes them.

    Args:
        node: A structure or leaf.

    Returns:
        The parts by key, field name or position; None for a leaf.
    """
    if isinstance(node, Tensor):
        return None
    if type(node) is dict:
        return node
    if isinstance(node, Mapping):
        return dict(node.items())
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {field.name: getattr(node, field.name) for field in dataclasses.fields(node) if field.init}
    if isinstance(node, tuple) and hasattr(node, "_fields"):
        return dict(zip(node._fields, node, strict=True))
    if is_sequence(node) and any(map(_is_inner, node)):
        return dict(enumerate(node))
    return None


def rebuild(node: object, parts: dict[Hashable, object]) -> object:
    """Make a structure like another one from other parts.

    Args:
        node: The structure to imitate; not changed.
        parts: New parts, under the names that `children` gives; not to be used afterwards.

    Returns:
        A structure of the same type.
    """
    if type(node) is dict:
        return parts
    if isinstance(node, Mapping):
        return _refill(node, parts)
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        made = dataclasses.replace(node, **{str(name): part for name, part in parts.items()})
        for name, part in parts.items():  # which `__post_init__` has changed once already
            object.__setattr__(made, str(name), part)
        return made
    if isinstance(node, tuple) and hasattr(node, "_make"):
        return cast("object", node._make(parts.values()))
    return _construct(node, parts.values())


def _is_inner(value: object) -> bool:
    return isinstance(value, Tensor | Mapping | list | tuple) or dataclasses.is_dataclass(value)


def _refill(mapping: Mapping[Hashable, object], parts: dict[Hashable, object]) -> object:
    # Of these two the copy is known to have its own items; other mappings may share theirs with a
    # shallow copy, and filling the copy would then change the original.
    if not isinstance(mapping, dict | UserDict):
        return _construct(mapping, parts)
    clone = copy.copy(mapping)
    for key, part in parts.items():
        clone[key] = part
    return clone


def _construct(like: object, argument: object) -> object:
    return cast("Callable[[object], object]", type(like))(argument)
