"""Recording a ledger row by row, so that nothing is lost when the process dies."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.columns import Array, ColumnSpec, as_array, fit_column, parse_columns
from lightning_mixcd.ledger.header import write_header
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.ledger.plan import BASIS, make_plan
from lightning_mixcd.ledger.recording import Recording, close_recording, open_recording

__all__ = ["LedgerWriter"]

# What a crash may cost at most where the caller never flushes.
_FLUSH_SECONDS = 30.0
# What remembering the rows until then may cost: 8 bytes each.
_FLUSH_ROWS = 1 << 22


class LedgerWriter:
    """Record a ledger into a folder; made again with the same arguments, go on where it stopped.

    Space for every row is claimed at the start. Rows may come in any order and more than once (the last
    counts). A row survives a crash once `flush` has returned, which `write` calls every half minute, or every
    four million rows if that is sooner. One process writes a folder at a time; another is kept out.

    Args:
        path: The folder; made if missing.
        size: Number of samples N of the pool.
        columns: Further columns: name to dtype, or to (dtype, shape of one row). `correct` and `loss` are
            always recorded.
        pool: Of `fingerprint_pool`; None if the pool is not to be verified later.
        model: Of `fingerprint_model`; None if not known yet (see `finish`), or not to be verified later.
        bases: By name of a column, vectors `(k, d)` of which its rows, `(N, k)`, are coordinates. Where an
            interrupted recording goes on, those it was begun with stay; see `basis`.

    Raises:
        LedgerError: If the folder holds a finished ledger, a recording of something else, or other files, or
            another process is recording into it.
        ValueError: If size or columns cannot be.
        OSError: If the disk is too full; what was there before stays as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     settings = dict(path=f"{folder}/base.ledger", size=3, columns={"label": "int64"})
        ...     writer = LedgerWriter(**settings, pool=None, model=None)
        ...     writer.write([2, 0], correct=[True, False], loss=[0.1, 1.5], label=[4, 4])
        ...     writer.flush()  # the process may die here
        ...     writer = LedgerWriter(**settings, pool=None, model=None)
        ...     writer.write(np.flatnonzero(~writer.recorded), correct=[True], loss=[0.3], label=[7])
        ...     writer.finish(forwards=3).column("label")
        array([4, 7, 4])
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int,
        *,
        columns: Mapping[str, Any],
        pool: Mapping[str, Any] | None,
        model: Mapping[str, Any] | None,
        bases: Mapping[str, Array] = MappingProxyType({}),
    ) -> None:
        self._path = Path(path)
        specs = parse_columns(columns)
        specs |= {name: _with_basis(name, specs.get(name), basis) for name, basis in bases.items()}
        self._plan = make_plan(size, specs, pool, model)
        # None once finished.
        self._recording: Recording | None = open_recording(self._path, self._plan, bases)
        # The mask on disk may only ever lag behind the columns, and the system writes mapped pages back when
        # it likes; so rows are marked here, and there when `flush` has the columns down.
        self._recorded = np.array(self._recording.mask)
        self._unflushed: list[Array] = []
        self._n_unflushed = 0
        self._flushed_at = time.monotonic()

    @property
    def recorded(self) -> Array:
        """Whether each row has been written, bool, `(N,)`; a read-only view that follows `write`."""
        view = self._recorded.view()
        view.flags.writeable = False
        return view

    @property
    def n_recorded(self) -> int:
        """Number of rows that have been written."""
        return int(np.count_nonzero(self._recorded))

    @property
    def n_bytes(self) -> int:
        """Bytes of the ledger on disk, but for its header."""
        return self._plan.n_bytes

    def basis(self, name: str) -> Array:
        """Look up the basis of a column.

        Args:
            name: One of `bases`.

        Returns:
            Vectors of which the rows that are written must be coordinates, `(k, d)`.
        """
        return self._unfinished().columns[f"{name}{BASIS}"]

    def write(self, index: object, **values: object) -> None:
        """Write some rows; all of them are checked before the first is stored.

        Args:
            index: Pool indices, int64, `(R,)`.
            **values: One `(R, ...)` array, tensor or list for every column.

        Raises:
            LedgerError: If the ledger is finished.
            TypeError: If indices or values are of another kind than they must be.
            ValueError: If columns, shapes, indices or values are not as declared, or a loss is not finite.
        """
        recording = self._unfinished()
        if values.keys() != self._plan.columns.keys():
            raise ValueError(
                f"`write` must get the columns {list(self._plan.columns)}, got {list(values)}. "
                "Pass each of them, or declare others in `columns`."
            )
        rows = _fit_index(index, self._plan.size)
        fitted = {
            name: fit_column(name, values[name], spec, rows) for name, spec in self._plan.columns.items()
        }
        for name, column in fitted.items():
            recording.columns[name][rows] = column
        self._recorded[rows] = True
        self._unflushed.append(rows)
        self._n_unflushed += len(rows)
        if self._n_unflushed > _FLUSH_ROWS or time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self.flush()

    def forget(self) -> None:
        """Take all rows, also those of an interrupted recording, for not written."""
        self._unfinished().mask[:] = False
        self._recorded[:] = False
        self._unflushed.clear()
        self._n_unflushed = 0

    def flush(self) -> None:
        """Bring all rows written so far safely to disk: columns first, then the mask."""
        if self._recording is None or not self._unflushed:
            return
        for column in self._recording.columns.values():
            column.flush()
        for rows in self._unflushed:
            self._recording.mask[rows] = True
        self._recording.mask.flush()
        self._unflushed.clear()
        self._n_unflushed = 0
        self._flushed_at = time.monotonic()

    def finish(self, *, model: Mapping[str, Any] | None = None, forwards: int) -> Ledger:
        """Seal the ledger: sum up its files and write the header, which makes it whole.

        Args:
            model: Of `fingerprint_model`, where it became known during recording; replaces the constructor's.
            forwards: Sample-forwards that recording cost; 0 if it rode along with training.

        Returns:
            The ledger, opened.

        Raises:
            LedgerError: If rows are missing, or the ledger is finished.
            ValueError: If `forwards` is negative.
        """
        lock = self._unfinished().lock
        if forwards < 0:
            raise ValueError(f"`forwards` must be at least 0, got {forwards}. Pass 0 if recording cost none.")
        self._check_complete()
        self.flush()
        plan = self._plan
        if model is not None:
            plan = make_plan(plan.size, plan.columns, plan.pool, model)
        write_header(self._path, plan, forwards)
        # Unmapped before the mask is deleted, which some systems refuse otherwise.
        self._recording = None
        close_recording(self._path, lock)
        return Ledger.open(self._path, verify=False)

    def _check_complete(self) -> None:
        missing = np.flatnonzero(~self._recorded)
        if missing.size:
            raise LedgerError(
                f"A finished ledger must have all {self._plan.size} rows, got {self.n_recorded}: "
                f"{missing.size} are missing, the first at pool index {', '.join(map(str, missing[:5]))}. "
                "Write them, then finish."
            )

    def _unfinished(self) -> Recording:
        if self._recording is None:
            raise LedgerError(
                f"The ledger at `{self._path}` is finished and must not change. Read it with `Ledger.open`."
            )
        return self._recording


def _with_basis(name: str, spec: ColumnSpec | None, basis: Array) -> ColumnSpec:
    if spec is None or basis.ndim != 2 or spec.trailing != basis.shape[:1]:
        raise ValueError(
            f"`bases` must have k vectors for a column of k numbers in a row, got {basis.shape} for "
            f"{name!r}, which is {spec}. Pass one vector for each number."
        )
    return spec._replace(width=basis.shape[1])


def _fit_index(index: object, size: int) -> Array:
    rows = as_array("index", index)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"`index` must be int64, got {rows.dtype}. Convert it: `.astype(int)` or `.long()`.")
    if rows.ndim != 1:
        raise ValueError(f"`index` must have shape (R,), got {rows.shape}. Flatten it.")
    outside = rows[(rows < 0) | (rows >= size)]
    if outside.size:
        raise ValueError(
            f"`index` must be in 0 .. {size - 1}, got {outside[0]}. "
            "Pass positions in the pool that `size` was taken from."
        )
    # A copy: it is kept until the next flush, and the caller may reuse its buffer.
    return rows.astype(np.int64)
