"""What a ledger keeps of a forward."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from lightning_mixcd.capture import Reading
from lightning_mixcd.errors import CaptureError, LedgerError

__all__ = ["KEPT", "Keep", "check_keep", "columns_of", "n_coordinates", "values_of"]

KEPT = frozenset({"features", "logits"})  # what a forward shows besides correctness and loss
# Names, or names and their dtypes, or names and dtype and number of coordinates.
Keep: TypeAlias = Sequence[str] | Mapping[str, str | tuple[str, int]]


def check_keep(keep: Keep) -> None:
    """Refuse to keep what a forward does not show.

    Args:
        keep: What to keep of each forward; see `record_ledger`.

    Raises:
        ValueError: If there is another name than "features" and "logits", or logits as coordinates.
    """
    if not {*keep} <= KEPT:
        raise ValueError(
            f'`keep` may hold "features" and "logits", got {[*keep]}. Columns of your own go into `columns`.'
        )
    if _dtypes(keep).get("logits", ("", None))[1] is not None:
        raise ValueError(f"`keep` may hold features as coordinates, and logits only as they are, got {keep}.")


def n_coordinates(keep: Keep) -> int | None:
    """Say as how many coordinates features are to be kept.

    Args:
        keep: What to keep of each forward.

    Returns:
        How many; None to keep features as they are.
    """
    return _dtypes(keep).get("features", ("", None))[1]


def columns_of(reading: Reading, keep: Keep) -> dict[str, Any]:
    """Say what a ledger of such readings holds, besides `correct` and `loss`.

    Args:
        reading: Of any rows.
        keep: What to keep of each forward; see `record_ledger`.

    Returns:
        Columns as `LedgerWriter` takes them.

    Raises:
        LedgerError: If the reading lacks what is to be kept.
    """
    found: dict[str, Any] = {} if reading.label is None else {"label": "int64"}
    for name, (dtype, k) in _dtypes(keep).items():
        found[name] = (dtype, tuple(_kept(reading, name).shape[1:]) if k is None else (k,))
    return found


def values_of(reading: Reading, keep: Iterable[str]) -> dict[str, Tensor]:
    """Take the columns of a ledger from a reading.

    Args:
        reading: Of some rows.
        keep: What to keep of each forward.

    Returns:
        Values by name of the column, on the CPU.

    Raises:
        LedgerError: If the reading lacks what is needed.
        CaptureError: If it does not tell what is right.
    """
    if reading.problem:
        raise CaptureError(reading.problem)
    if reading.loss is None:
        raise LedgerError(
            "A ledger needs the loss of each sample, and the outputs have none. Return logits, or "
            '{"correct": ..., "losses": ...}, or let the `correctness` rule return (correct, losses).'
        )
    values = {"correct": reading.correct, "loss": reading.loss.float()}
    if reading.label is not None:
        values["label"] = reading.label
    values |= {name: _kept(reading, name) for name in keep}
    return {name: value.cpu() for name, value in values.items()}


def _kept(reading: Reading, name: str) -> Tensor:
    values: Tensor | None = getattr(reading, name)
    if values is None:
        raise LedgerError(
            f"`{name}` are to be kept, and the outputs have none. Return logits from `training_step`, or "
            f'leave "{name}" out of `keep`.'
        )
    return values


# Of each name the dtype, and as how many coordinates it is kept.
def _dtypes(keep: Keep) -> dict[str, tuple[str, int | None]]:
    given = keep if isinstance(keep, Mapping) else dict.fromkeys(keep, "float16")
    return {
        name: (how[0], how[1]) if isinstance(how, Sequence) and not isinstance(how, str) else (how, None)
        for name, how in given.items()
    }
