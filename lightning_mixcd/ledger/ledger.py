"""Reading a ledger, and checking that it is of the pool and base model at hand."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.arrays import open_array
from lightning_mixcd.ledger.columns import Array, ColumnSpec, as_array, fit_column, parse_columns
from lightning_mixcd.ledger.header import HEADER, read_header, verify_columns
from lightning_mixcd.ledger.model_fingerprint import fingerprint_model, model_difference
from lightning_mixcd.ledger.plan import BASIS, Plan, make_plan
from lightning_mixcd.ledger.pool_fingerprint import fingerprint_pool, pool_difference
from lightning_mixcd.ledger.recording import count_recorded

__all__ = ["Ledger"]

_SAVED_ROWS = 1 << 16


class Ledger:
    """Per-sample record of the base model on the pool; does not change.

    Made by `Ledger.open`, `Ledger.from_arrays` or `LedgerWriter.finish`, rather than directly.

    Args:
        plan: Size, kinds of columns, fingerprints.
        columns: Name to array, `(N, ...)`; `correct` and `loss` among them; and the bases of columns.
        forwards: Sample-forwards that recording cost.
        check_model: Whether `verify_model` compares.

    Example:
        >>> ledger = Ledger.from_arrays(correct=[True, False], loss=[0.2, 1.7], label=[3, 8])
        >>> ledger.size, ledger.columns
        (2, ('correct', 'loss', 'label'))
        >>> ledger.column("label")
        array([3, 8])
    """

    def __init__(
        self, plan: Plan, columns: Mapping[str, Array], *, forwards: int = 0, check_model: bool = True
    ) -> None:
        self._plan = plan
        self._columns = {name: _frozen(columns[name]) for name in plan.files}
        self._forwards = forwards
        self._check_model = check_model

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True, check_model: bool = True) -> "Ledger":
        """Open a finished ledger; its arrays are mapped, not loaded.

        Args:
            path: Folder of the ledger.
            verify: Whether to read all files once and compare checksums; without it only dtypes, shapes and
                lengths are checked.
            check_model: Whether `verify_model` compares. False means: I know that the module differs.

        Returns:
            The ledger.

        Raises:
            LedgerError: If there is none, it is unfinished, damaged, or of another schema.
        """
        path = Path(path)
        if not (path / HEADER).exists():
            raise LedgerError(_absence(path))
        header = read_header(path)
        if verify:
            verify_columns(path, header)
        columns = {
            name: open_array(path / f"{name}.npy", spec, size)
            for name, (spec, size) in header.plan.files.items()
        }
        return cls(header.plan, columns, forwards=header.forwards, check_model=check_model)

    @classmethod
    def from_arrays(cls, correct: object, loss: object, **columns: object) -> "Ledger":
        """Make a ledger in memory from what was logged already.

        It carries no fingerprints: `verify_pool` compares the size, `verify_model` nothing.

        Args:
            correct: Whether the base model got each sample right, bool, `(N,)`.
            loss: Its loss of each sample in nats, float, `(N,)`.
            **columns: Further columns, `(N, ...)`, numbers, flags or strings.

        Returns:
            The ledger; it holds copies.

        Raises:
            TypeError: If values are of another kind.
            ValueError: If names, lengths or values cannot be.
        """
        plan = make_plan(as_array("correct", correct).size, {}, pool=None, model=None)
        # `range` stands for the pool index of each row without holding them all.
        rows = range(plan.size)
        given = {"correct": correct, "loss": loss}
        arrays = {
            name: np.array(fit_column(name, given[name], spec, rows)) for name, spec in plan.columns.items()
        }
        return cls(plan, arrays).with_columns(**columns)

    @property
    def size(self) -> int:
        """Number of samples N of the pool."""
        return self._plan.size

    @property
    def forwards(self) -> int:
        """Sample-forwards that recording cost; 0 if it rode along with training."""
        return self._forwards

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(self._plan.columns)

    @property
    def correct(self) -> Array:
        """Whether the base model got each sample right, bool, `(N,)`."""
        return self._columns["correct"]

    @property
    def loss(self) -> Array:
        """Loss of the base model on each sample in nats, float32, `(N,)`."""
        return self._columns["loss"]

    def column(self, name: str) -> Array:
        """Look up a column.

        Args:
            name: One of `columns`.

        Returns:
            The read-only array, `(N, ...)`.

        Raises:
            LedgerError: If there is no such column.
        """
        if name not in self.columns:
            raise LedgerError(
                f"`name` must be a column of the ledger, one of {[*self.columns]}, got {name!r}. "
                f"Add it with `ledger.with_columns({name}=...)`, or record again with it in `columns`."
            )
        return self._columns[name]

    def basis(self, name: str) -> Array | None:
        """Look up the vectors of which a column's rows are coordinates; see `record_ledger`.

        Args:
            name: One of `columns`.

        Returns:
            Orthonormal vectors, float32, `(k, d)`, so that `column(name) @ basis` are about the vectors that
            were recorded; None where rows are these vectors.
        """
        return self._columns.get(f"{name}{BASIS}")

    def with_columns(self, **columns: object) -> "Ledger":
        """Add columns in memory; the files stay as they are.

        Args:
            **columns: Name to `(N, ...)` numbers, flags or strings.

        Returns:
            A ledger with these columns too; it holds copies of them.

        Raises:
            TypeError: If values are neither numbers, flags nor strings.
            ValueError: If a name is taken or no identifier, or a length is not N.

        Example:
            >>> ledger = Ledger.from_arrays(correct=[True, False], loss=[0.2, 1.7])
            >>> ledger.with_columns(genre=["fiction", "travel"]).columns
            ('correct', 'loss', 'genre')
        """
        if taken := [name for name in columns if name in self._columns]:
            raise ValueError(f"`columns` must have new names, got {taken}, which are there. Choose others.")
        arrays = {name: as_array(name, values) for name, values in columns.items()}
        specs = {
            name: ColumnSpec(array.dtype.newbyteorder("="), array.shape[1:]) for name, array in arrays.items()
        }
        specs = parse_columns({**self._plan.columns, **specs})
        rows = range(self.size)
        added = {name: np.array(fit_column(name, array, specs[name], rows)) for name, array in arrays.items()}
        return Ledger(
            self._plan._replace(columns=specs),
            {**self._columns, **added},
            forwards=self._forwards,
            check_model=self._check_model,
        )

    def with_all_correct(self) -> "Ledger":
        """Count every sample as one that the base model got right; the files stay as they are.

        Returns:
            A ledger that is the same but for `correct`.

        Example:
            >>> Ledger.from_arrays(correct=[True, False], loss=[0.2, 1.7]).with_all_correct().correct
            array([ True,  True])
        """
        columns = {**self._columns, "correct": np.broadcast_to(np.True_, self.size)}
        return Ledger(self._plan, columns, forwards=self._forwards, check_model=self._check_model)

    def verify_pool(
        self, pool: Dataset[Any] | Sequence[Any], *, unreadable: Literal["raise", "skip"] = "raise"
    ) -> None:
        """Refuse a pool that is not the one the ledger was made from.

        Args:
            pool: Map-style dataset or list of N samples; some of them are read, see `fingerprint_pool`.
            unreadable: What to do where the pool raises an error for one of these: "raise", or "skip" it.

        Raises:
            LedgerError: If size or content differ.
        """
        self.verify_fingerprint(fingerprint_pool(pool, unreadable=unreadable))

    def verify_fingerprint(self, given: Mapping[str, Any]) -> None:
        """Refuse the fingerprint of a pool that is not the one the ledger was made from.

        Args:
            given: Of `fingerprint_pool`.

        Raises:
            LedgerError: If size or content differ.
        """
        recorded = self._plan.pool or {"size": self.size, "structure": None, "values": None}
        if difference := pool_difference(recorded, dict(given)):
            raise LedgerError(
                f"`pool` must be the one the ledger was made from, got another ({difference}). "
                "Pass that pool, in the same order and without new transforms, or record one for this pool."
            )

    def verify_model(self, module: nn.Module) -> None:
        """Refuse a module that is not the base model the ledger was made with.

        Compares nothing if the ledger has no fingerprint of a model, or was opened with `check_model=False`.

        Args:
            module: The module before finetuning.

        Raises:
            LedgerError: If architecture, precision or weights differ.
        """
        if not self._check_model or self._plan.model is None:
            return
        if difference := model_difference(self._plan.model, fingerprint_model(module)):
            raise LedgerError(
                f"`module` must be the base model the ledger was made with, got {difference}. Load the base "
                "model's weights before finetuning, record a ledger for this module, or open the ledger with "
                "`check_model=False` if the difference does not matter."
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the ledger to disk.

        Args:
            path: Folder; made if missing.

        Raises:
            LedgerError: If the folder holds something else.
        """
        # The writer returns ledgers, so it cannot be imported above.
        from lightning_mixcd.ledger.writer import LedgerWriter

        plan = self._plan
        bases = {name: basis for name in self.columns if (basis := self.basis(name)) is not None}
        writer = LedgerWriter(
            path, plan.size, columns=plan.columns, pool=plan.pool, model=plan.model, bases=bases
        )
        for start in range(0, plan.size, _SAVED_ROWS):
            rows = np.arange(start, min(start + _SAVED_ROWS, plan.size))
            writer.write(rows, **{name: self.column(name)[rows] for name in self.columns})
        writer.finish(forwards=self._forwards)

    # Copies and other processes get read-only arrays too.
    def __reduce__(self) -> tuple[object, ...]:
        rest = partial(Ledger, forwards=self._forwards, check_model=self._check_model)
        return rest, (self._plan, self._columns)

    def __repr__(self) -> str:
        return f"Ledger(size={self.size}, columns={self.columns}, forwards={self.forwards})"


def _frozen(array: Array) -> Array:
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def _absence(path: Path) -> str:
    progress = count_recorded(path)
    if progress is not None:
        recorded, size = progress
        return (
            f"The ledger at `{path}` is unfinished: {recorded} of {size} recorded; "
            "run the recording again to go on."
        )
    return (
        f"`path` must be the folder of a ledger (with a `{HEADER}` in it), got `{path}`. "
        "Check the path, or record a ledger first, for example with `mixcd-record`."
    )
