"""Exceptions of the library; each is also the built-in type that a caller would expect."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real

__all__ = [
    "CaptureError",
    "JoinError",
    "LedgerError",
    "PoolError",
    "check_counts",
    "check_kept",
    "check_number",
    "check_range",
    "check_whole",
    "of_the_pool",
    "unreadable_sample",
]


class LedgerError(ValueError):
    """A ledger is missing, unfinished, damaged, or belongs to another pool or base model."""


class CaptureError(RuntimeError):
    """Correctness of the rehearsed samples cannot be read from what a training step gave back."""


class JoinError(ValueError):
    """A pool batch cannot be joined to a finetune batch."""


class PoolError(RuntimeError):
    """A sample of the pool cannot be read."""


def check_whole(**arguments: object) -> None:
    """Refuse arguments that are no whole numbers, before they are compared with a range.

    Args:
        **arguments: Values by the argument's name.

    Raises:
        TypeError: If one is something else, such as a text from a command line.
    """
    _check_kind(arguments, Integral, "a whole number", "an int")


def check_counts(remedy: str, **arguments: int) -> None:
    """Refuse arguments that are no whole numbers from 1.

    Args:
        remedy: What to do, a sentence.
        **arguments: Values by the argument's name.

    Raises:
        ValueError: If one is below 1.
    """
    check_whole(**arguments)
    for name, value in arguments.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}. {remedy}")


def check_kept(found: int, given: int) -> None:
    """Refuse a batch that has lost or won rows on its way: pool samples are told by their place.

    Args:
        found: Rows of the batch as the model got it.
        given: Rows that went into it.

    Raises:
        CaptureError: If these are other numbers.
    """
    if found != given:
        raise CaptureError(
            f"Batch hooks must keep every row in its place, so that pool samples are found again, got "
            f"{found} rows for {given}. Filter the data beforehand, and make further views of rows in "
            "`training_step`."
        )


def check_number(**arguments: object) -> None:
    """Refuse arguments that are no numbers, before they are compared with a range.

    Args:
        **arguments: Values by the argument's name.

    Raises:
        TypeError: If one is something else, such as a text from a command line.
    """
    _check_kind(arguments, Real, "a number", "a float or an int")


def check_range(interval: str, remedy: str, **arguments: float) -> None:
    """Refuse arguments that are no numbers of an interval.

    Args:
        interval: Such as `"[0, 1]"` or `"(0, inf)"`; a round bracket leaves its end out.
        remedy: What to do, a sentence.
        **arguments: Values by the argument's name.

    Raises:
        ValueError: If one lies outside, or is NaN.
    """
    check_number(**arguments)
    low, high = map(float, interval[1:-1].split(","))
    for name, value in arguments.items():
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if not (above and below):
            raise ValueError(f"`{name}` must be in {interval}, got {value}. {remedy}")


def _check_kind(arguments: Mapping[str, object], kind: type, rule: str, remedy: str) -> None:
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"`{name}` must be {rule}, got {value!r}. Pass {remedy}.")


def unreadable_sample(index: int, dataset: object, cause: Exception) -> str:
    """Word the error for a pool sample that cannot be read.

    Args:
        index: Its pool index.
        dataset: The pool.
        cause: What the pool raised.

    Returns:
        Text for a `PoolError`.
    """
    return (
        f"`pool` must give every sample, but {type(dataset).__name__} raised {cause!r} for pool index "
        f"{index}. Mend that sample, or leave it out (`torch.utils.data.Subset`). While training, though not "
        "for a ledger, others of its draw that can be read may take its place: Pool(..., "
        'unreadable="skip").'
    )


@contextmanager
def of_the_pool() -> Iterator[None]:
    """Say of errors that the user's own code raises meanwhile what it was given (from Python 3.11 on).

    Yields:
        Nothing.
    """
    try:
        yield
    except Exception as error:
        if hasattr(error, "add_note"):
            error.add_note(
                "This was a batch of the pool, which must be what `training_step` takes, or `rehearsal_step` "
                "if there is one. If the finetune loader has a `collate_fn`, the pool needs it too: "
                "Pool(dataset, collate_fn=...)."
            )
        raise
