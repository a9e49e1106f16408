"""The finetuned predictions that are to be explained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from lightning.pytorch import LightningModule

from lightning_mixcd.app.finished_run import FinishedRun
from lightning_mixcd.capture import Reading, Readout
from lightning_mixcd.data import Pool
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.probe import Probe
from lightning_mixcd.wiring import call_step, rehearsal_step

__all__ = ["KINDS", "Answers", "Queries", "choose_queries", "readout_of"]

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]

# Task whose validation samples are asked about, and what they are called.
KINDS = {
    "prior_damaged": ("prior", "Predictions on the prior task that finetuning damaged"),
    "new_errors": ("new", "Errors on the new task"),
    "prior": ("prior", "Predictions on the prior task"),
    "new": ("new", "Predictions on the new task"),
}


@dataclass(frozen=True)
class Answers:
    """What a model said to some samples.

    Args:
        correct: Whether it was right, `(K,)`.
        loss: Its loss, `(K,)`.
        guess: Class of its highest logit, `(K,)`; None where there are no logits of classes.
        label: The right class, `(K,)`; None where there are no classes.
    """

    correct: Flags
    loss: npt.NDArray[np.float64]
    guess: npt.NDArray[np.int64] | None
    label: npt.NDArray[np.int64] | None

    def of(self, rows: npt.NDArray[np.int64]) -> "Answers":
        """Take some of them.

        Args:
            rows: Which.

        Returns:
            Their answers.
        """
        guess = None if self.guess is None else self.guess[rows]
        label = None if self.label is None else self.label[rows]
        return Answers(self.correct[rows], self.loss[rows], guess, label)


@dataclass(frozen=True)
class Queries:
    """Validation samples of one task, the one with the highest loss after finetuning first.

    Args:
        kind: What they are called, in the plural.
        task: "prior" or "new".
        index: Their positions in the validation set, `(K,)`.
        before: What the base model said.
        after: What the finetuned model says.
    """

    kind: str
    task: str
    index: npt.NDArray[np.int64]
    before: Answers
    after: Answers


def choose_queries(
    run: FinishedRun, kind: str, index: Sequence[int] | None = None, *, batch_size: int = 256
) -> Queries:
    """Choose predictions of a run.

    Args:
        run: The run.
        kind: One of `KINDS`.
        index: Positions in the validation set; only these.
        batch_size: Samples per forward.

    Returns:
        The queries.

    Raises:
        ValueError: If there is no such kind, an index is out of range, or none is left.
        CaptureError: If a sample has no loss.
    """
    if kind not in KINDS:
        raise ValueError(f"`queries` must be one of {[*KINDS]}, got {kind!r}. Pass one of them.")
    task, words = KINDS[kind]
    pool = run.val[task]
    outside = [i for i in index or () if not 0 <= i < len(pool)]
    if outside:
        raise ValueError(
            f"`index` must be positions in the {task} task's validation set, 0 to {len(pool) - 1}, got "
            f"{outside[:5]}. Correct them."
        )
    before, after = (
        _answers(module, pool, task, batch_size=batch_size) for module in (run.base, run.finetuned)
    )
    wanted = np.ones(len(pool), dtype=bool) if kind == task else ~after.correct
    if kind == "prior_damaged":
        wanted &= before.correct
    if index is not None:
        wanted &= np.isin(np.arange(len(pool)), index)
    rows = np.flatnonzero(wanted)
    if not len(rows):
        raise ValueError(
            f"`queries` must leave a sample to ask about, but none of the {len(pool)} in the {task} task's "
            f"validation set is one of {kind!r}{' and in `index`' if index is not None else ''}. Take "
            f"queries={task}."
        )
    if not np.isfinite(after.loss[rows]).all():
        raise CaptureError(
            f"Every query must have a finite loss, but sample {rows[~np.isfinite(after.loss[rows])][0]} of "
            f"the {task} task's validation set has none; its target may be no class. Leave it out by `index`."
        )
    rows = rows[np.argsort(-after.loss[rows], kind="stable")]
    return Queries(words, task, rows, before.of(rows), after.of(rows))


def readout_of(task: str) -> Readout:
    """Say how samples of a task are read.

    Args:
        task: "prior", whose samples go to a module's `rehearsal_step` if it has one, or "new".

    Returns:
        The readout.
    """

    def step(module: LightningModule, batch: object) -> object:
        own = rehearsal_step(module) if task == "prior" else None
        return call_step(own or module.training_step, batch, 0)

    return Readout(step=step)


def _answers(module: LightningModule, pool: Pool, task: str, *, batch_size: int) -> Answers:
    probe = Probe(module, pool, readout_of(task), batch_size=batch_size)
    parts = [_said(reading, task) for _, reading in probe.readings(range(len(pool)), keep=("logits",))]
    return Answers(
        np.concatenate([part.correct for part in parts]),
        np.concatenate([part.loss for part in parts]),
        _joined([part.guess for part in parts]),
        _joined([part.label for part in parts]),
    )


def _joined(parts: Sequence[Numbers | None]) -> Numbers | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None


def _said(reading: Reading, task: str) -> Answers:
    if reading.loss is None:
        raise CaptureError(
            f"Influence needs the loss of each query, and the outputs for the {task} task have none. Return "
            'logits, or {"correct": ..., "losses": ...}.'
        )
    logits = reading.logits
    return Answers(
        correct=reading.correct.cpu().numpy(),
        loss=reading.loss.double().cpu().numpy(),
        guess=logits.argmax(dim=1).cpu().numpy() if logits is not None and logits.ndim == 2 else None,
        label=None if reading.label is None else reading.label.cpu().numpy(),
    )
