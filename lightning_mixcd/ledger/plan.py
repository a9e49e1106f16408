"""What a ledger is of: size, columns, and the fingerprints of pool and base model."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.columns import ColumnSpec, parse_columns
from lightning_mixcd.ledger.documents import Document, damage
from lightning_mixcd.ledger.model_fingerprint import model_difference
from lightning_mixcd.ledger.pool_fingerprint import pool_difference

__all__ = ["BASIS", "Plan", "make_plan", "plan_difference", "plan_from_document", "plan_to_document"]

BASIS = ".basis"  # of the file with the basis of a column


class Plan(NamedTuple):
    """What is recorded, and on what.

    Args:
        size: Number of samples N.
        columns: Name to kind of every column.
        pool: Fingerprint of the pool; None if unknown.
        model: Fingerprint of the base model; None if unknown.
    """

    size: int
    columns: dict[str, ColumnSpec]
    pool: Document | None
    model: Document | None

    @property
    def files(self) -> dict[str, tuple[ColumnSpec, int]]:
        """Kind of row and number of rows of each file, by its name: of columns, and of their bases."""
        bases = {
            f"{name}{BASIS}": (ColumnSpec(np.dtype(np.float32), (spec.width,)), spec.trailing[0])
            for name, spec in self.columns.items()
            if spec.width is not None
        }
        return {name: (spec, self.size) for name, spec in self.columns.items()} | bases

    @property
    def n_bytes(self) -> int:
        """Bytes of all files on disk, but for what says what they are."""
        return sum(size * spec.row_bytes for spec, size in self.files.values())


def make_plan(
    size: int, columns: Mapping[str, Any], pool: Mapping[str, Any] | None, model: Mapping[str, Any] | None
) -> Plan:
    """Check and gather what a recording is of.

    Args:
        size: Number of samples N.
        columns: See `parse_columns`.
        pool: See `Plan`.
        model: See `Plan`.

    Returns:
        The plan.

    Raises:
        ValueError: If the size is not positive or not that of the pool, or a fingerprint is none; see also
            `parse_columns`.
    """
    if size < 1:
        raise ValueError(f"`size` must be at least 1, got {size}. Pass the number of samples of the pool.")
    pool = _check_fingerprint("pool", pool, {"size", "structure", "values"})
    if pool is not None and pool["size"] != size:
        raise ValueError(f"`size` must be that of `pool`, {pool['size']}, got {size}. Pass `len(pool)`.")
    return Plan(int(size), parse_columns(columns), pool, _check_fingerprint("model", model, {"tensors"}))


def plan_to_document(plan: Plan) -> Document:
    """Write a plan as JSON.

    Args:
        plan: The plan.

    Returns:
        The document.
    """
    columns = {
        name: {"dtype": spec.dtype.str, "shape": [plan.size, *spec.trailing]}
        | ({} if spec.width is None else {"width": spec.width})
        for name, spec in plan.columns.items()
    }
    return {"size": plan.size, "columns": columns, "pool": plan.pool, "model": plan.model}


def plan_from_document(document: Document, path: Path) -> Plan:
    """Read a plan back.

    Args:
        document: From `plan_to_document`; more keys are ignored.
        path: Where it was read from, for messages.

    Returns:
        The plan.

    Raises:
        LedgerError: If the document is something else.
    """
    try:
        columns = {
            name: (given["dtype"], tuple(given["shape"][1:]), given.get("width"))
            for name, given in document["columns"].items()
        }
        return make_plan(document["size"], columns, document["pool"], document["model"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LedgerError(damage(path, "it does not describe a ledger")) from error


def plan_difference(recorded: Plan, given: Plan) -> str | None:
    """Say what keeps a recording from being continued under another plan.

    Args:
        recorded: Plan of the interrupted recording.
        given: Plan of now.

    Returns:
        One sentence part per difference, or None if there is none.
    """
    found = [
        f"size: {recorded.size} vs {given.size}" if recorded.size != given.size else None,
        f"columns: {_show(recorded)} vs {_show(given)}" if recorded.columns != given.columns else None,
        _fingerprint_difference("pool", recorded.pool, given.pool, pool_difference),
        _fingerprint_difference("model", recorded.model, given.model, model_difference),
    ]
    return "; ".join(part for part in found if part) or None


def _fingerprint_difference(
    label: str,
    recorded: Document | None,
    given: Document | None,
    difference: Callable[[Document, Document], str | None],
) -> str | None:
    if recorded is None or given is None:
        fault = "no fingerprint vs a fingerprint" if recorded is None else "a fingerprint vs no fingerprint"
        return None if recorded is given else f"{label}: {fault}"
    found = difference(recorded, given)
    return f"{label}: {found}" if found else None


def _show(plan: Plan) -> str:
    return ", ".join(f"{name} {spec}" for name, spec in plan.columns.items())


def _check_fingerprint(name: str, given: Mapping[str, Any] | None, keys: set[str]) -> Document | None:
    if given is None:
        return None
    if given.keys() != keys:
        raise ValueError(
            f"`{name}` must be what `fingerprint_{name}` returns, got a mapping of {list(given)}. "
            f"Call it, or pass None if the {name} is not to be verified later."
        )
    # Into what will be read back: JSON knows no tuples, and a plan must equal itself from disk.
    return dict(json.loads(json.dumps(dict(given))))
