"""A folder in which a ledger is being recorded: starting it, and going on after an interruption.

Files appear in an order that makes every crash recoverable: `partial.json` says whose folder this is, then
come the columns, then `recorded.npy`. Without the last, no row can have been recorded, and the start is
repeated.
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.arrays import MappedArray, allocate_array, open_array
from lightning_mixcd.ledger.columns import Array, ColumnSpec
from lightning_mixcd.ledger.documents import read_document, sync_folder, write_document
from lightning_mixcd.ledger.header import HEADER
from lightning_mixcd.ledger.plan import Plan, plan_difference, plan_from_document, plan_to_document

__all__ = ["Recording", "count_recorded", "open_recording", "remove_progress"]

PARTIAL, MASK = "partial.json", "recorded.npy"
_MASK_SPEC = ColumnSpec(np.dtype(np.bool_))


class Recording(NamedTuple):
    """Writable maps of a folder that is being recorded.

    Args:
        columns: Name to array, `(N, ...)`.
        mask: Whether a row is safely on disk, bool, `(N,)`.
    """

    columns: dict[str, MappedArray]
    mask: MappedArray


def open_recording(path: Path, plan: Plan) -> Recording:
    """Start recording into a folder, or go on where an interrupted recording stopped.

    Args:
        path: The folder; made if missing.
        plan: What is recorded.

    Returns:
        Maps to write to.

    Raises:
        LedgerError: If the folder holds a finished ledger, a recording of something else, or other files.
    """
    if (path / HEADER).exists():
        raise LedgerError(
            f"`path` must not hold a finished ledger, got `{path}`. Read it with `Ledger.open`, "
            "or delete the folder to record again."
        )
    begun = _read_plan(path)
    if begun is None:
        _check_unused(path)
        _start(path, plan)
    elif not (path / MASK).exists():
        _remove_columns(path, begun)
        _start(path, plan)
    elif difference := plan_difference(begun, plan):
        raise LedgerError(
            f"The interrupted recording at `{path}` is of something else ({difference}). "
            "Go on with what it was begun with, or delete the folder to start afresh."
        )
    return _map(path, plan)


def remove_progress(path: Path) -> None:
    """Remove what only an unfinished recording needs.

    Args:
        path: Folder whose header has been written.
    """
    # The plan goes first: a mask without one is litter in a finished ledger and means nothing to anyone.
    for name in (PARTIAL, MASK):
        (path / name).unlink(missing_ok=True)
    sync_folder(path)


def count_recorded(path: Path) -> tuple[int, int] | None:
    """Look how far an interrupted recording got.

    Args:
        path: The folder.

    Returns:
        Rows recorded and rows in all; None if nothing is being recorded there.
    """
    plan = _read_plan(path)
    if plan is None:
        return None
    if not (path / MASK).exists():
        return 0, plan.size
    return int(np.count_nonzero(_flags(open_array(path / MASK, _MASK_SPEC, plan.size)))), plan.size


def _read_plan(path: Path) -> Plan | None:
    if not (path / PARTIAL).exists():
        return None
    return plan_from_document(read_document(path / PARTIAL), path / PARTIAL)


def _start(path: Path, plan: Plan) -> None:
    path.mkdir(parents=True, exist_ok=True)
    write_document(path / PARTIAL, plan_to_document(plan))
    try:
        for name, spec in plan.columns.items():
            allocate_array(path / f"{name}.npy", spec, plan.size)
        # No loss is NaN, so this marks rows that were never written even if the mask is damaged.
        open_array(path / "loss.npy", plan.columns["loss"], plan.size, mode="r+").fill(np.nan)
        allocate_array(path / f"{MASK}.tmp", _MASK_SPEC, plan.size)
    except OSError as error:
        _remove_columns(path, plan)
        n_bytes = plan.size * sum(spec.row_bytes for spec in (*plan.columns.values(), _MASK_SPEC))
        message = f"{error.strerror}: recording needs {n_bytes:,} bytes; free some, or choose another `path`"
        raise OSError(error.errno, message, os.fspath(path)) from error
    (path / f"{MASK}.tmp").replace(path / MASK)
    sync_folder(path)


def _map(path: Path, plan: Plan) -> Recording:
    columns = {
        name: open_array(path / f"{name}.npy", spec, plan.size, mode="r+")
        for name, spec in plan.columns.items()
    }
    mask = open_array(path / MASK, _MASK_SPEC, plan.size, mode="r+")
    # A damaged mask costs a few rows recorded twice, never a row that was not recorded at all.
    mask[:] = _flags(mask) & np.isfinite(columns["loss"])
    return Recording(columns, mask)


# Byte by byte, because what a flag other than 0 and 1 means to NumPy is undefined.
def _flags(mask: Array) -> Array:
    flags: Array = mask.view(np.uint8) == 1
    return flags


def _remove_columns(path: Path, plan: Plan) -> None:
    for name in plan.columns:
        (path / f"{name}.npy").unlink(missing_ok=True)
    (path / f"{MASK}.tmp").unlink(missing_ok=True)


# A column would replace someone else's file of the same name.
def _check_unused(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise LedgerError(f"`path` must be a folder, got the file `{path}`. Choose another name.")
    files = sorted(file.name for file in path.iterdir()) if path.exists() else []
    others = [name for name in files if name != f"{PARTIAL}.tmp"]
    if others:
        raise LedgerError(
            f"`path` must be new, empty or an interrupted recording, got `{path}` with {others[:3]} in it. "
            "Choose another, or empty the folder."
        )
