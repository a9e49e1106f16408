"""The finetuned predictions that are to be explained."""

import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from lightning.pytorch import LightningModule

from lightning_mixcd.app.finished_run import FinishedRun
from lightning_mixcd.capture import Reading, Readout
from lightning_mixcd.data import Pool
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.probe import Probe
from lightning_mixcd.wiring import call_step, rehearsal_step

__all__ = ["KINDS", "Answer", "Kind", "Query", "choose_queries", "kind_of_queries", "readout_of"]


class Answer(NamedTuple):
    """What a model said to a sample.

    Args:
        correct: Whether it was right.
        loss: Its loss.
        guess: Class of its highest logit; None where there are no logits of classes.
        label: The right class; None where there are no classes.
    """

    correct: bool
    loss: float
    guess: int | None
    label: int | None


@dataclass(frozen=True)
class Query:
    """A prediction on a validation sample.

    Args:
        index: Position in the validation set.
        before: What the base model said.
        after: What the finetuned model says.
    """

    index: int
    before: Answer
    after: Answer


# Task whose validation samples are asked about, what they are called, and which of them these are.
Kind = tuple[str, str, Callable[[Query], bool]]
KINDS: dict[str, Kind] = {
    "prior_damaged": (
        "prior",
        "Predictions on the prior task that finetuning damaged",
        lambda query: query.before.correct and not query.after.correct,
    ),
    "new_errors": ("new", "Errors on the new task", lambda query: not query.after.correct),
    "prior": ("prior", "Predictions on the prior task", lambda _: True),
    "new": ("new", "Predictions on the new task", lambda _: True),
}


def kind_of_queries(name: str) -> Kind:
    """Look up a kind of queries.

    Args:
        name: One of `KINDS`.

    Returns:
        Task whose validation samples are asked about, what they are called, and which of them these are.

    Raises:
        ValueError: If there is no such kind.
    """
    if name not in KINDS:
        raise ValueError(f"`queries` must be one of {[*KINDS]}, got {name!r}. Pass one of them.")
    return KINDS[name]


def choose_queries(
    run: FinishedRun, kind: str, index: Collection[int] | None = None, *, batch_size: int = 256
) -> list[Query]:
    """Choose predictions of a run.

    Args:
        run: The run.
        kind: One of `KINDS`.
        index: Positions in the validation set; only these.
        batch_size: Samples per forward.

    Returns:
        The queries, the one with the highest loss after finetuning first.

    Raises:
        ValueError: If there is no such kind, an index is out of range, or none is left.
        CaptureError: If a sample has no loss.
    """
    task, _, holds = kind_of_queries(kind)
    pool = run.val[task]
    outside = [i for i in index or () if not 0 <= i < len(pool)]
    if outside:
        raise ValueError(
            f"`index` must be positions in the {task} task's validation set, 0 to {len(pool) - 1}, got "
            f"{outside[:5]}. Correct them."
        )
    both = (_answers(module, pool, task, batch_size=batch_size) for module in (run.base, run.finetuned))
    samples = [Query(i, *answers) for i, answers in enumerate(zip(*both, strict=True))]
    samples = [query for query in samples if holds(query) and (index is None or query.index in index)]
    if not samples:
        raise ValueError(
            f"`queries` must leave a sample to ask about, but none of the {len(pool)} in the {task} task's "
            f"validation set is one of {kind!r}{' and in `index`' if index is not None else ''}. Take "
            f"queries={task}."
        )
    if bad := [query.index for query in samples if not math.isfinite(query.after.loss)]:
        raise CaptureError(
            f"Every query must have a finite loss, but sample {bad[0]} of the {task} task's validation set "
            "has none; its target may be no class. Leave it out by `index`."
        )
    return sorted(samples, key=lambda query: -query.after.loss)


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


def _answers(module: LightningModule, pool: Pool, task: str, *, batch_size: int) -> list[Answer]:
    probe = Probe(module, replace(pool, batch_size=batch_size), readout_of(task))
    readings = probe.readings(range(len(pool)), keep=("logits",))
    return [answer for _, reading in readings for answer in _said(reading, task)]


def _said(reading: Reading, task: str) -> Iterator[Answer]:
    if reading.loss is None:
        raise CaptureError(
            f"Influence needs the loss of each query, and the outputs for the {task} task have none. Return "
            'logits, or {"correct": ..., "losses": ...}.'
        )
    logits, label = reading.logits, reading.label
    unknown = [None] * len(reading.loss)
    return map(
        Answer,
        reading.correct.tolist(),
        reading.loss.tolist(),
        logits.argmax(dim=1).tolist() if logits is not None and logits.ndim == 2 else unknown,
        unknown if label is None else label.tolist(),
    )
