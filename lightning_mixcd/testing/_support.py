"""What all checks share."""

import copy
import io
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.testing.toys import MAIN, toy_ledgers

__all__ = ["factory", "require", "same", "saved_and_loaded", "toys", "untouched_chance"]

Part = TypeVar("Part")


def require(condition: object, message: str) -> None:
    """Raise unless a rule is kept.

    Args:
        condition: Whether it is.
        message: The rule, what was found instead, and the remedy.

    Raises:
        AssertionError: If it is not.
    """
    if not condition:
        raise AssertionError(message)


def factory(part: Part | Callable[[], Part], kind: type[Part]) -> Callable[[], Part]:
    """Return a function that makes fresh parts, given one part or such a function."""
    make = (lambda: copy.deepcopy(part)) if isinstance(part, kind) else part
    require(callable(make), f"Give a {kind.__name__} or a function that makes one, got {part!r}.")
    made = make()  # type: ignore[operator]
    require(isinstance(made, kind), f"{part!r} must make a {kind.__name__}, made a {type(made).__name__}.")
    return make  # type: ignore[return-value]


def toys(ledger: Ledger | None, accepts: Callable[[Ledger], object], name: str) -> Iterator[Ledger]:
    """Yield the ledgers to check on: the given one, or the toy ledgers that a part does not refuse."""
    for label, toy in (toy_ledgers() if ledger is None else {MAIN: ledger}).items():
        contents = _contents(toy)
        try:
            accepts(toy)
        except ValueError as refusal:
            remedy = "Pass `ledger=`, one that it can work with."
            require(label != MAIN, f"{name} refused the ledger to check it on: {refusal} {remedy}")
            continue
        _require_contents(toy, contents, name)
        yield toy
        _require_contents(toy, contents, name)


def _contents(ledger: Ledger) -> dict[str, bytes]:
    return {column: ledger.column(column).tobytes() for column in ledger.columns}


def _require_contents(ledger: Ledger, before: dict[str, bytes], name: str) -> None:
    changed = [column for column, content in _contents(ledger).items() if content != before[column]]
    require(not changed, f"{name} must not change the ledger, but changed {changed}. Copy it first.")


@contextmanager
def untouched_chance(name: str) -> Iterator[None]:
    """Require that global random states stay as they are."""
    before = _global_chance()
    yield
    changed = [library for library, state in _global_chance().items() if state != before[library]]
    remedy = "Draw from the generator that was passed, or from one that the part makes from a seed."
    require(
        not changed, f"{name} must not use or seed global random state, but changed {changed}'s. {remedy}"
    )


def _global_chance() -> dict[str, str]:
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state().tolist()  # noqa: NPY002
    with np.printoptions(threshold=10**6):
        return {
            library: str(state) for library, state in zip(("random", "numpy", "torch"), states, strict=True)
        }


def saved_and_loaded(state: object, name: str) -> object:
    """Return a state as it comes back from a checkpoint.

    Raises:
        AssertionError: If it cannot be read without pickle.
    """
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    try:
        return torch.load(file, weights_only=True)
    except Exception as error:
        raise AssertionError(
            f"{name}'s state must load with `torch.load(weights_only=True)`: keep tensors, numbers, strings, "
            f"and lists or dicts of these. {error}"
        ) from error


def same(a: object, b: object) -> bool:
    """Return whether two tensors, or dicts and lists of tensors, hold the same."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return type(a) is type(b) and a == b
