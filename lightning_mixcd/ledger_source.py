"""Where a session has its ledger from."""

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.errors import LedgerError
from lightning_mixcd.kept import KEPT
from lightning_mixcd.ledger import Ledger, fingerprint_model
from lightning_mixcd.ledger.recording import FinishedLedgerError
from lightning_mixcd.penalties.base import Penalty
from lightning_mixcd.probe import Probe
from lightning_mixcd.record import open_if_recorded, record_with
from lightning_mixcd.strategies import Strategy

__all__ = ["RECORDED_HERE", "LedgerSource"]

RECORDED_HERE = KEPT | {"correct", "loss", "label"}  # what a recording at the start of `fit` may find


class LedgerSource:
    """Opens a ledger in `setup`; compares it with the module, or records it, when `fit` starts.

    Args:
        given: The ledger, or its folder, or None.
        pool: The samples that it is of.
        users: What may need it: the strategy and the penalties.
        trainer: The trainer.
        module: The module, with its weights as they come.

    Raises:
        TypeError: If `given` is something else.
        ValueError: If a ledger or a column of it is needed and not given, or a ledger is given for a pool
            that can have none.
        LedgerError: If the ledger is damaged or of another pool.
    """

    def __init__(
        self,
        given: Ledger | str | Path | None,
        pool: Pool,
        users: Sequence[Strategy | Penalty],
        trainer: Trainer,
        module: LightningModule,
    ) -> None:
        if not isinstance(given, Ledger | str | PathLike | None):
            raise TypeError(
                f"`ledger` must be a `Ledger` or its folder, got {given!r}. Pass for example 'base.ledger'."
            )
        self._given, self._pool, self._trainer, self._module = given, pool, trainer, module
        self._columns = {name: type(user).__name__ for user in users for name in user.needs_columns}
        self.ledger = self._opened(users)
        self._check_columns()
        # Of the weights as they come; later they are converted to the precision of training.
        self._builds_later = any(is_overridden(name, module) for name in ("setup", "configure_model"))
        records = given is not None and self.ledger is None
        self._fingerprint = fingerprint_model(module) if records and not self._builds_later else None
        self._doubt = self._doubts()

    def checked(self, probe: Probe, *, resumed: bool) -> Ledger | None:
        """Return the ledger, now that the module is built, converted and on its device.

        Args:
            probe: Looks at the module.
            resumed: Whether a run is continued, so that the weights are no longer the base model's.

        Returns:
            The ledger; None where none was asked for.

        Raises:
            LedgerError: If the ledger is of another base model, or missing when it can no longer be made.
            ValueError: If it was recorded now and lacks a column that is needed.
        """
        # Where the weights are what they were in `setup`, they were fingerprinted before any conversion.
        late = self._builds_later or self._trainer.ckpt_path is not None
        if self.ledger is None and self._given is not None:
            model = None if late else self._fingerprint
            self.ledger = self._recorded(self._given, probe, model, resumed=resumed)
            self._check_columns()
        elif self.ledger is not None and not resumed:
            if late:
                self.ledger.verify_model(self._module)
            elif self._doubt is not None:
                raise self._doubt
        return self.ledger

    def _opened(self, users: Sequence[Strategy | Penalty]) -> Ledger | None:
        if isinstance(self._pool.dataset, Streams):
            if self._given is not None:
                raise ValueError(
                    f"`ledger` must be left out for `Streams`, got {self._given!r}. What the base "
                    "model had right is a field of their samples: Streams(..., base_correct=...)."
                )
            for user in users:
                if isinstance(user, Penalty) and (
                    user.needs_ledger or user.needs_columns or user.needs_samples
                ):
                    raise ValueError(
                        "`penalties` must do without a ledger and without random access for `Streams`, got "
                        f"{type(user).__name__}. Use one that asks the model about the rows of each batch, "
                        "such as Distillation(), or a map-style pool."
                    )
            return None
        if self._given is not None:
            return open_if_recorded(self._given, self._pool)
        for user in users:
            if user.needs_ledger or user.needs_columns:
                raise ValueError(
                    f"`ledger` must be given, because {type(user).__name__} goes by what the base model did "
                    "with the pool. Pass a folder, RehearsalCallback(ledger='base.ledger'): it is recorded "
                    "there if it is empty."
                )
        return None

    def _check_columns(self) -> None:
        if self._given is None:
            return
        for name, user in self._columns.items():
            if self.ledger is None and name in RECORDED_HERE:
                continue
            if self.ledger is None or name not in self.ledger.columns:
                there = "none is recorded yet" if self.ledger is None else f"has {list(self.ledger.columns)}"
                remedy = f"Add it, `ledger.with_columns({name}=...)`."
                if name in KEPT:
                    remedy = f'Record it into another folder: record_ledger(..., keep=["{name}"]).'
                elif self.ledger is None:
                    remedy = f'Record it beforehand: record_ledger(..., columns={{"{name}": ...}}).'
                raise ValueError(
                    f"`ledger` must have the column `{name}`, because {user} needs it; {there}. {remedy}"
                )

    def _doubts(self) -> LedgerError | None:
        try:
            if self.ledger is not None:
                self.ledger.verify_model(self._module)
        except LedgerError as error:
            return error
        return None

    def _recorded(
        self, path: Ledger | str | Path, probe: Probe, model: Mapping[str, Any] | None, *, resumed: bool
    ) -> Ledger:
        if resumed or self._trainer.strategy.restore_checkpoint_after_setup:
            reason = "a resumed run no longer has" if resumed else "a sharded module cannot be run to find"
            raise LedgerError(
                f"`ledger` must be recorded already, because {reason} what the base model had right, and "
                f"there is none at `{path}`. Record it with `record_ledger` and the base model."
            )
        keep = [name for name in self._columns if name in KEPT]
        try:
            record_with(probe, str(path), model=model, keep=keep)
        except FinishedLedgerError:  # meanwhile, by another run
            Ledger.open(str(path)).verify_model(self._module)
        self._trainer.strategy.barrier()
        ledger = open_if_recorded(path, self._pool)
        assert ledger is not None  # noqa: S101 -- just recorded
        return ledger
