"""A folder in which a ledger is being recorded: starting it, and going on after an interruption.

Files appear in an order that makes every crash recoverable: `partial.json` says whose folder this is, then
come the columns, then `recorded.npy`. Without the last, no row can have been recorded, and the start is
repeated. A lock that ends with its process keeps a second one out.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import BaseFileLock, FileLock, Timeout

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.arrays import MappedArray, allocate_array, open_array
from lightning_mixcd.ledger.columns import Array, ColumnSpec
from lightning_mixcd.ledger.documents import read_document, sync_folder, write_document
from lightning_mixcd.ledger.header import HEADER
from lightning_mixcd.ledger.plan import Plan, plan_difference, plan_from_document, plan_to_document

__all__ = ["Recording", "close_recording", "count_recorded", "open_recording"]

PARTIAL, MASK, LOCK = "partial.json", "recorded.npy", "recording.lock"
# Loader workers of a recording that was killed hold its lock for some seconds more.
_WAIT_SECONDS = 20.0
_MASK_SPEC = ColumnSpec(np.dtype(np.bool_))


class Recording(NamedTuple):
    """Writable maps of a folder that is being recorded.

    Args:
        columns: Name to array, `(N, ...)`.
        mask: Whether a row is safely on disk, bool, `(N,)`.
        lock: Held as long as anything in this process refers to it.
    """

    columns: dict[str, MappedArray]
    mask: MappedArray
    lock: BaseFileLock


def open_recording(path: Path, plan: Plan) -> Recording:
    """Start recording into a folder, or go on where an interrupted recording stopped.

    Args:
        path: The folder; made if missing.
        plan: What is recorded.

    Returns:
        Maps to write to.

    Raises:
        LedgerError: If the folder holds a finished ledger, a recording of something else, or other files, or
            another process is recording into it.
    """
    _check_usable(path)
    lock = _take_lock(path)
    try:
        # Another process may have finished it meanwhile.
        _check_usable(path)
        _start_unless_begun(path, plan)
        return Recording(*_map(path, plan), lock)
    except BaseException:
        _release(lock, path)
        raise


def _start_unless_begun(path: Path, plan: Plan) -> None:
    begun = _read_plan(path)
    if begun is None:
        _start(path, plan)
    elif not (path / MASK).exists():
        _remove_columns(path, begun)
        _start(path, plan)
    elif difference := plan_difference(begun, plan):
        raise LedgerError(
            f"The interrupted recording at `{path}` is of something else ({difference}). "
            "Go on with what it was begun with, or delete the folder to start afresh."
        )


def close_recording(path: Path, lock: BaseFileLock) -> None:
    """Remove what only an unfinished recording needs.

    Args:
        path: Folder whose header has been written.
        lock: Of its recording.
    """
    # The plan goes first: a mask without one is litter in a finished ledger and means nothing to anyone.
    for name in (PARTIAL, MASK):
        (path / name).unlink(missing_ok=True)
    _release(lock, path)
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


def _map(path: Path, plan: Plan) -> tuple[dict[str, MappedArray], MappedArray]:
    columns = {
        name: open_array(path / f"{name}.npy", spec, plan.size, mode="r+")
        for name, spec in plan.columns.items()
    }
    mask = open_array(path / MASK, _MASK_SPEC, plan.size, mode="r+")
    # A damaged mask costs a few rows recorded twice, never a row that was not recorded at all.
    mask[:] = _flags(mask) & np.isfinite(columns["loss"])
    return columns, mask


# Byte by byte, because what a flag other than 0 and 1 means to NumPy is undefined.
def _flags(mask: Array) -> Array:
    flags: Array = mask.view(np.uint8) == 1
    return flags


def _remove_columns(path: Path, plan: Plan) -> None:
    for name in plan.columns:
        (path / f"{name}.npy").unlink(missing_ok=True)
    (path / f"{MASK}.tmp").unlink(missing_ok=True)


def _take_lock(path: Path) -> BaseFileLock:
    path.mkdir(parents=True, exist_ok=True)
    # One for all writers of this process: an abandoned one must not keep the next one out.
    lock = FileLock(path.resolve() / LOCK, thread_local=False, is_singleton=True)
    try:
        lock.acquire(timeout=_WAIT_SECONDS)
    except Timeout as error:
        raise LedgerError(
            f"`path` must be recorded by one process at a time, but another one is recording `{path}`. Wait "
            "until it is done and use its ledger, or choose another folder."
        ) from error
    return lock


def _release(lock: BaseFileLock, path: Path) -> None:
    # Gone before it is released: whoever waits for it notices, and starts over with a new one.
    if (path / HEADER).exists():
        with suppress(PermissionError):  # some systems keep open files
            (path / LOCK).unlink(missing_ok=True)
    lock.release()


# A column would replace someone else's file of the same name.
def _check_usable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise LedgerError(f"`path` must be a folder, got the file `{path}`. Choose another name.")
    files = sorted(file.name for file in path.iterdir()) if path.exists() else []
    if HEADER in files:
        raise LedgerError(
            f"`path` must not hold a finished ledger, got `{path}`. Read it with `Ledger.open`, "
            "or delete the folder to record again."
        )
    others = [name for name in files if name not in {f"{PARTIAL}.tmp", LOCK}]
    if others and PARTIAL not in files:
        raise LedgerError(
            f"`path` must be new, empty or an interrupted recording, got `{path}` with {others[:3]} in it. "
            "Choose another, or empty the folder."
        )
