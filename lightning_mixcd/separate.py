"""Rehearsed rows that cannot share a batch with finetune rows."""

import copy
from contextlib import ExitStack
from typing import Any

from lightning.pytorch import LightningModule
from torch import Tensor
from torch.distributed.tensor import DTensor

from lightning_mixcd.capture import Reading, Readout
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.functional.joining import n_rows
from lightning_mixcd.look import loss_of
from lightning_mixcd.wiring import call_step, rehearsal_step

__all__ = ["SeparateStep"]


class SeparateStep:
    """Makes a module's own `rehearsal_step` on rehearsed rows, within the training step.

    Args:
        module: The model; it has a `rehearsal_step`.
        readout: How the outputs of both steps are read.

    Attributes:
        rows: Rows that it was made on beside the last finetune batch; 0 if it was not.
        reading: What was read of them, if that was wanted.

    Raises:
        CaptureError: If the module optimizes in its `training_step`.
    """

    def __init__(self, module: LightningModule, readout: Readout) -> None:
        if not module.automatic_optimization:
            raise CaptureError(
                "A `rehearsal_step` cannot be made beside a `training_step` with manual optimization, which "
                "has made its backward when it returns. Use automatic optimization, or leave out "
                "`rehearsal_step`, so that pool rows join the finetune batch."
            )
        self._module, self._training_readout = module, readout
        # What the training step's own pass put out must stay readable.
        self.readout = copy.copy(readout)
        self.readout.made_by, self.readout.listens = "rehearsal_step", False
        self._wanted: dict[str, Any] | None = None
        self.forget()

    def begin(self, wanted: dict[str, Any] | None, *, alone: bool) -> ExitStack:
        """Get ready for the first batch.

        Args:
            wanted: What is read of each `rehearsal_step`, as `Readout.read` takes it; None for nothing.
            alone: Whether one process has all rows.

        Returns:
            The readout's hooks.

        Raises:
            CaptureError: If the module is sharded over processes, some of which may have no row to rehearse.
        """
        if not alone and any(isinstance(parameter, DTensor) for parameter in self._module.parameters()):
            raise CaptureError(
                "A module whose parameters are sharded over processes cannot make a `rehearsal_step`: "
                "processes without a rehearsed row would not take part. Train with DDP, or leave out "
                "`rehearsal_step`, so that pool rows join the finetune batch."
            )
        self._wanted = wanted
        return self.readout.attach(self._module, with_features=bool(wanted and wanted["with_features"]))

    def forget(self) -> None:
        """Drop what is left of the last step."""
        self._batch: object = None
        self.rows = 0
        self.reading: Reading | None = None
        self.readout.forget()

    def expect(self, batch: object) -> None:
        """Take the rows of the step that is about to be made.

        Args:
            batch: The rows, as the module gets them.
        """
        self._batch = batch

    def make(self, number: int) -> tuple[Tensor, object, object]:
        """Make the step on the rows expected; the module's `training_step` must be its own meanwhile.

        Args:
            number: Number of the finetune batch.

        Returns:
            The loss, all that the step returned, and its batch.

        Raises:
            CaptureError: If there is no loss, or what was wanted cannot be read.
        """
        step = rehearsal_step(self._module)
        assert step is not None  # noqa: S101 -- or there would be no `SeparateStep`
        self.rows = n_rows(self._batch)  # the step may change its batch
        with self.readout.hearing(True), self._training_readout.hearing(False):
            outputs = call_step(step, self._batch, number)
        loss = loss_of(outputs, "rehearsal_step")
        if self._wanted is not None:
            self.reading = self.readout.read(outputs, self._batch, rows=self.rows, keep=True, **self._wanted)
        return loss, outputs, self._batch
