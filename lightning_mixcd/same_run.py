"""Whether a run may go on from a checkpoint."""

import inspect
import zlib
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from types import FunctionType

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_mixcd.capture import Readout
from lightning_mixcd.estimators import Estimator
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import Partition
from lightning_mixcd.penalties.base import Penalty
from lightning_mixcd.settings import Settings
from lightning_mixcd.strategies import Strategy

__all__ = ["Value", "check_run", "check_state", "describe", "tell"]

Value = bool | int | float | str | None
"""What a checkpoint that loads safely may hold."""

# What draws and learnt numbers have no meaning without; all else may change from one step to the next.
FIXED = ("strategy", "n_pool", "n_base_correct", "base_correct", "seed", "lag", "penalties")
LONGEST = 200  # characters of a list of numbers
PARTS = (Strategy, Partition, Estimator, Penalty, Readout)

ANEW = "To start another finetuning from these weights, load them into the module and leave out `ckpt_path`."


def describe(settings: Settings, ledger: Ledger | None) -> dict[str, Value]:
    """Say in plain values what decides how a run goes on.

    Of strategy, schedule and their like these are the constructor's arguments, where they are kept under
    their names, or those with an underscore before, and are numbers, words, lists of numbers or parts of
    the library.

    Args:
        settings: What a session is asked to do.
        ledger: The base model's record of the pool.

    Returns:
        By argument, that of a part after its part, such as `strategy.partition.n_bins`.
    """
    found: dict[str, Value] = {"n_pool": len(settings.pool)}
    found |= _of_value("seed", settings.seed)
    found |= _of_value("lag", settings.pool.lag)
    if ledger is not None and settings.strategy.needs_ledger:
        found["n_base_correct"] = int(ledger.correct.sum())
        found["base_correct"] = f"checksum {zlib.crc32(np.ascontiguousarray(ledger.correct).data):08x}"
    found |= _of_value("mix_ratio", settings.mix_ratio)
    found |= _of_value("rehearsal_weight", settings.rehearsal_weight)
    found["penalties"] = ", ".join(type(penalty).__name__ for penalty in settings.penalties)
    found |= _of_value("penalties", settings.penalties)
    for name in ("strategy", "schedule", "readout"):
        found |= _of_part(name, getattr(settings, name))
    return found


def _of_value(name: str, value: object) -> Iterator[tuple[str, Value]]:
    if value is None or isinstance(value, bool | str):
        yield name, value
    elif isinstance(value, Real):
        # Plain numbers: a safe load refuses those of NumPy.
        yield name, int(value) if isinstance(value, Integral) else float(value)
    elif isinstance(value, list | tuple):
        if value and all(isinstance(item, Real) for item in value):
            yield name, _of_numbers(value)
        for i, item in enumerate(value):
            if isinstance(item, PARTS):
                yield from _of_part(f"{name}.{i}", item)
    elif isinstance(value, PARTS):
        yield from _of_part(name, value)


def _of_numbers(values: Sequence[object]) -> str:
    words = ", ".join(map(str, values))
    return words if len(words) <= LONGEST else f"checksum {zlib.crc32(words.encode()):08x}"


def _of_part(name: str, part: object) -> Iterator[tuple[str, Value]]:
    yield name, type(part).__name__
    if not isinstance(type(part).__init__, FunctionType):
        return  # a function, or what is made in C, such as a `partial`: neither says what it was made with
    for argument in inspect.signature(type(part)).parameters:
        for kept in (argument, f"_{argument}"):  # the latter where a method has the name
            if hasattr(part, kept):
                yield from _of_value(f"{name}.{argument}", getattr(part, kept))


def check_run(saved: Mapping[str, Value], now: Mapping[str, Value]) -> dict[str, str]:
    """Refuse to go on where draws or what was learnt would lose their meaning.

    Args:
        saved: What `describe` returned for the run that is resumed.
        now: What it returns for this one.

    Returns:
        What else differs: name to both values in words.

    Raises:
        ValueError: If what has to stay as it was differs.
    """
    # Checkpoints of earlier versions hold less.
    different = [name for name in now if name in saved and saved[name] != now[name]]
    fixed = [name for name in different if name in FIXED or "partition" in name.split(".")]
    if fixed:
        kept = ", ".join(f"`{name}` {saved[name]!r}, got {now[name]!r}" for name in fixed)
        raise ValueError(f"A resumed run must keep what it was begun with: {kept}. Set it back. {ANEW}")
    return {name: f"{name}={now[name]!r} in place of {saved[name]!r}" for name in different}


def tell(different: Mapping[str, str]) -> None:
    """Warn of settings that the resumed run has taken instead of those it was begun with.

    Args:
        different: What `check_run` returned.
    """
    if different:
        changes = ", ".join(different.values())
        rank_zero_warn(f"The resumed run goes on with other settings than it was begun with: {changes}.")


def check_state(name: str, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse a state that a part would not have saved itself.

    Args:
        name: Class of the part.
        saved: What is in the checkpoint.
        own: What the part would save now.

    Raises:
        ValueError: If names or shapes differ.
    """
    missing, surplus = sorted(own.keys() - saved.keys()), sorted(saved.keys() - own.keys())
    common = [key for key in own if key in saved]
    shapes = [key for key in common if saved[key].shape != own[key].shape]
    problems = {"lacks": missing, "should not have": surplus, "has in another shape": shapes}
    if any(problems.values()):
        found = ", ".join(f"{problem} {keys}" for problem, keys in problems.items() if keys)
        raise ValueError(
            f"The state of `{name}` in the checkpoint must be what this `{name}` would save, but it {found}. "
            f"Resume with the options and the version of `{name}` that saved it. {ANEW}"
        )
