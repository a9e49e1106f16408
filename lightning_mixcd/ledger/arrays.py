"""Column files: `.npy` arrays that are allocated in full and mapped, never loaded."""

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.columns import ColumnSpec
from lightning_mixcd.ledger.documents import damage

__all__ = ["MappedArray", "allocate_array", "open_array"]

MappedArray: TypeAlias = np.memmap[Any, np.dtype[Any]]

_CHUNK_BYTES = 1 << 20


def allocate_array(path: Path, spec: ColumnSpec, size: int) -> None:
    """Make a column file of zeros, with all its bytes claimed on disk.

    A sparse file would end in a bus error when the disk fills up under the map, hours into a recording;
    claimed in full, a full disk is an `OSError` (as the system reports it) at the start.

    Args:
        path: Where to; an existing file is replaced.
        spec: What the column holds.
        size: Number of rows N.
    """
    np.lib.format.open_memmap(path, mode="w+", dtype=spec.dtype, shape=(size, *spec.trailing))
    with path.open("r+b") as stream:
        _claim_space(stream, path.stat().st_size)


def open_array(path: Path, spec: ColumnSpec, size: int, *, mode: Literal["r", "r+"] = "r") -> MappedArray:
    """Map a column file after checking that it is what it should be.

    Args:
        path: The file.
        spec: What the column holds.
        size: Number of rows N.
        mode: "r" to read, "r+" to go on recording.

    Returns:
        Map of the file, `(N, *spec.trailing)`.

    Raises:
        LedgerError: If it is missing, has another dtype or shape, or another length than these say.
        OSError: If the system cannot read it.
    """
    try:
        found, offset = _read_layout(path)
    except FileNotFoundError as error:
        raise LedgerError(damage(path, "the file is missing")) from error
    except OSError:
        raise
    # NumPy's parser answers garbage with half a dozen exception types and promises none of them.
    except Exception as error:
        raise LedgerError(damage(path, "it is no .npy file")) from error
    expected = (spec.dtype, (size, *spec.trailing), False)
    if found != expected:
        what = f"it must hold {expected[0]} {expected[1]}, got {found[0]} {found[1]}"
        raise LedgerError(damage(path, what))
    # Mapping in mode "r+" would silently extend a truncated file with zeros, so its length is checked before.
    n_bytes = offset + size * spec.row_bytes
    if path.stat().st_size != n_bytes:
        raise LedgerError(damage(path, f"it must be {n_bytes} bytes long, got {path.stat().st_size}"))
    return np.memmap(path, dtype=spec.dtype, mode=mode, offset=offset, shape=expected[1])


# What is in the file (dtype, shape, whether column-major), and where in it.
def _read_layout(path: Path) -> tuple[tuple[np.dtype[Any], tuple[int, ...], bool], int]:
    with path.open("rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("Ledgers are written in version 1.0 of the format.")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
        return (dtype, shape, fortran_order), stream.tell()


def _claim_space(stream: BinaryIO, size: int) -> None:
    try:
        os.posix_fallocate(stream.fileno(), 0, size)
    except AttributeError:
        _rewrite(stream, size)
    except OSError as error:
        # Some network file systems do not know the call.
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
            raise
        _rewrite(stream, size)


def _rewrite(stream: BinaryIO, size: int) -> None:
    """Write what is there once more, which fills the holes of a sparse file."""
    for start in range(0, size, _CHUNK_BYTES):
        stream.seek(start)
        chunk = stream.read(min(_CHUNK_BYTES, size - start))
        stream.seek(start)
        stream.write(chunk)
