"""A folder in which a ledger is being recorded: starting it, and going on after an interruption.

Files appear in an order that makes every crash recoverable: `partial.json` says whose folder this is, then
come the columns, then `recorded.npy`. Without the last, no row can have been recorded, and the start is
repeated. A lock that ends with its process keeps a second one out.
"""

import os
from collections.abc import Mapping
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
from lightning_mixcd.ledger.plan import BASIS, Plan, plan_difference, plan_from_document, plan_to_document

__all__ = [
    "FinishedLedgerError",
    "Recording",
    "check_usable",
    "close_recording",
    "count_recorded",
    "open_recording",
]

PARTIAL, MASK, LOCK = "partial.json", "recorded.npy", "recording.lock"
# Loader workers of a recording that was killed hold its lock for some seconds more.
_WAIT_SECONDS = 20.0
_MASK_SPEC = ColumnSpec(np.dtype(np.bool_))


class FinishedLedgerError(LedgerError):
    """There is a finished ledger where one is to be recorded."""


class Recording(NamedTuple):
    """Writable maps of a folder that is being recorded.

    Args:
        columns: Array of each file: columns, `(N, ...)`, and bases.
        mask: Whether a row is safely on disk, bool, `(N,)`.
        lock: Held as long as anything in this process refers to it.
    """

    columns: dict[str, MappedArray]
    mask: MappedArray
    lock: BaseFileLock


def open_recording(path: Path, plan: Plan, bases: Mapping[str, Array]) -> Recording:
    """Start recording into a folder, or go on where an interrupted recording stopped.

    Args:
        path: The folder; made if missing.
        plan: What is recorded.
        bases: Basis of each column that has one. Where a recording goes on, those of its start stay.

    Returns:
        Maps to write to.

    Raises:
        LedgerError: If the folder holds a finished ledger, a recording of something else, or other files, or
            another process is recording into it.
    """
    check_usable(path)
    lock = _take_lock(path)
    try:
        # Another process may have finished it meanwhile.
        check_usable(path)
        _start_unless_begun(path, plan, bases)
        return Recording(*_map(path, plan), lock)
    except BaseException:
        _release(lock, path)
        raise


def _start_unless_begun(path: Path, plan: Plan, bases: Mapping[str, Array]) -> None:
    begun = _read_plan(path)
    if begun is None:
        _start(path, plan, bases)
    elif not (path / MASK).exists():
        _remove_columns(path, begun)
        _start(path, plan, bases)
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


def _start(path: Path, plan: Plan, bases: Mapping[str, Array]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    write_document(path / PARTIAL, plan_to_document(plan))
    try:
        for name, (spec, size) in plan.files.items():
            allocate_array(path / f"{name}.npy", spec, size)
        for name, basis in bases.items():
            spec, size = plan.files[f"{name}{BASIS}"]
            stored = open_array(path / f"{name}{BASIS}.npy", spec, size, mode="r+")
            stored[:] = basis
            stored.flush()
        # No loss is NaN, so this marks rows that were never written even if the mask is damaged.
        open_array(path / "loss.npy", plan.columns["loss"], plan.size, mode="r+").fill(np.nan)
        allocate_array(path / f"{MASK}.tmp", _MASK_SPEC, plan.size)
    except OSError as error:
        _remove_columns(path, plan)
        n_bytes = plan.n_bytes + plan.size
        message = f"{error.strerror}: recording needs {n_bytes:,} bytes; free some, or choose another `path`"
        raise OSError(error.errno, message, os.fspath(path)) from error
    (path / f"{MASK}.tmp").replace(path / MASK)
    sync_folder(path)


def _map(path: Path, plan: Plan) -> tuple[dict[str, MappedArray], MappedArray]:
    columns = {
        name: open_array(path / f"{name}.npy", spec, size, mode="r+")
        for name, (spec, size) in plan.files.items()
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
    for name in plan.files:
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


def check_usable(path: Path) -> None:
    """Refuse a folder into which nothing can be recorded.

    Args:
        path: The folder; it may be missing.

    Raises:
        FinishedLedgerError: If it holds a finished ledger.
        LedgerError: If it holds other files than those of a recording.
    """
    if path.exists() and not path.is_dir():
        raise LedgerError(f"`path` must be a folder, got the file `{path}`. Choose another name.")
    files = sorted(file.name for file in path.iterdir()) if path.exists() else []
    if HEADER in files:
        raise FinishedLedgerError(
            f"`path` must not hold a finished ledger, got `{path}`. Read it with `Ledger.open`, "
            "or delete the folder to record again."
        )
    # A column would replace someone else's file of the same name.
    others = [name for name in files if name not in {f"{PARTIAL}.tmp", LOCK}]
    if others and PARTIAL not in files:
        raise LedgerError(
            f"`path` must be new, empty or an interrupted recording, got `{path}` with {others[:3]} in it. "
            "Choose another, or empty the folder."
        )
