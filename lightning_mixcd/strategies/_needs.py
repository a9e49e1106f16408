"""What a strategy needs and does not find."""

from typing import TypeVar

import numpy as np
from torch import Tensor

from lightning_mixcd.errors import CaptureError, LedgerError
from lightning_mixcd.ledger.columns import Array
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.types import Outcome

__all__ = ["column_of", "given", "losses_of"]

T = TypeVar("T")

REMEDIES = {
    "label": "A ledger of a classifier has it; else add it, `ledger.with_columns(label=...)`.",
    "features": 'Record them into another folder: record_ledger(..., keep=["features"]).',
    "logits": 'Record them into another folder: record_ledger(..., keep=["logits"]).',
}


def given(promised: T | None) -> T:
    """Return what is there by contract: the ledger with `needs_ledger`, what `signal` always returns."""
    assert promised is not None  # noqa: S101 -- promised
    return promised


def column_of(ledger: Ledger, name: str, strategy: object, *, ndim: int = 1) -> Array:
    """Look up a ledger column that a strategy cannot do without.

    Args:
        ledger: The ledger.
        name: The column.
        strategy: Who needs it, for the message.
        ndim: Dimensions that it must have: 1 for `(N,)`, 2 for `(N, d)`.

    Returns:
        The column, not mapped, `(N,)` or `(N, d)`.

    Raises:
        LedgerError: If there is none, or it is of another shape.
    """
    if name not in ledger.columns or ledger.column(name).ndim != ndim:
        found = ledger.column(name).shape if name in ledger.columns else f"columns {list(ledger.columns)}"
        remedy = REMEDIES.get(name, f"Add it, `ledger.with_columns({name}=...)`.")
        raise LedgerError(
            f"`ledger` must have a column `{name}` with {ndim} dimension(s) for {type(strategy).__name__}, "
            f"got {found}. {remedy}"
        )
    return np.asarray(ledger.column(name))


def losses_of(outcome: Outcome, strategy: object) -> Tensor:
    """Return the loss of each row of an outcome, float32.

    Args:
        outcome: The outcome.
        strategy: Who needs it, for the message.

    Returns:
        The losses, `(R,)`.

    Raises:
        CaptureError: If there are none.
    """
    if outcome.loss is None:
        raise CaptureError(
            f"{type(strategy).__name__} goes by the loss of each rehearsed row, which outputs lack. "
            'Return logits, or {"correct": ..., "losses": ...}, or let the `correctness` rule return '
            "(correct, losses)."
        )
    return outcome.loss.float()
