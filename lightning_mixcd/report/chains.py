"""What a model that learnt one task after another leaves on disk, and methods compared by it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lightning_mixcd.functional import task_matrix
from lightning_mixcd.report.files import files_named, write_text
from lightning_mixcd.report.intervals import Interval, t_interval
from lightning_mixcd.report.records import Setting

__all__ = ["SCORES", "ChainRecord", "ChainRow", "compare_chains", "read_chains"]

FILE = "chain.json"
SCORES = {
    "final": task_matrix.final_accuracy,
    "mean": task_matrix.mean_accuracy,
    "transfer": task_matrix.transfer_accuracy,
    "forgetting": task_matrix.stage_forgetting,
    "backward_transfer": task_matrix.backward_transfer,
}


@dataclass(frozen=True)
class ChainRecord:
    """What one chain measured.

    Args:
        name: Name of the method.
        mix_ratio: Rehearsed samples per finetune sample.
        rehearsal_weight: Weight of a rehearsed sample in the loss.
        seed: Seed of the base model, the data and the draws; runs of one seed are a pair.
        tasks: Names of the tasks, in the order in which they were learnt.
        initial: Accuracy on each task before the first stage, in [0, 1], `(T,)`.
        accuracies: On task j after stage i, in [0, 1], `(T, T)`.
        compute_units: Sample-forwards + 2 x sample-backwards of all stages but the base model's.
        seconds: Wall-clock time of their `fit`s.

    Example:
        >>> tasks, initial, accuracies = ["a", "b"], [0.1, 0.1], [[0.9, 0.3], [0.6, 0.8]]
        >>> record = ChainRecord("mixcd", 0.25, 1.0, 0, tasks, initial, accuracies, 900, 2.5)
        >>> round(record.scores["forgetting"], 3)
        0.3
    """

    name: str
    mix_ratio: float
    rehearsal_weight: float
    seed: int
    tasks: list[str]
    initial: list[float]
    accuracies: list[list[float]]
    compute_units: int
    seconds: float

    @property
    def setting(self) -> Setting:
        """How the method was set."""
        return Setting(self.mix_ratio, self.rehearsal_weight)

    @property
    def scores(self) -> dict[str, float]:
        """Scores of the matrix by name; see `lightning_mixcd.functional.task_matrix`."""
        matrix = torch.tensor(self.accuracies, dtype=torch.float64)
        forward = task_matrix.forward_transfer(matrix, torch.tensor(self.initial, dtype=torch.float64))
        return {name: float(score(matrix)) for name, score in SCORES.items()} | {
            "forward_transfer": float(forward)
        }

    def write(self, folder: Path) -> None:
        """Write to the run's folder.

        Args:
            folder: The folder, which exists.
        """
        write_text(folder / FILE, json.dumps({**asdict(self), "scores": self.scores}, indent=1) + "\n")


@dataclass(frozen=True)
class ChainRow:
    """One method over its seeds.

    Args:
        name: The method.
        setting: How it was set.
        n: Seeds.
        scores: Score to its mean over the seeds, with 95 % interval.
        gains: Score to its difference to the reference, paired by seed; empty for the reference.
        initial: Mean accuracies before the first stage, `(T,)`.
        accuracies: Mean matrix, `(T, T)`.
        compute_units: Mean.
        seconds: Mean.
    """

    name: str
    setting: Setting
    n: int
    scores: dict[str, Interval]
    gains: dict[str, Interval]
    initial: npt.NDArray[np.float64]
    accuracies: npt.NDArray[np.float64]
    compute_units: float
    seconds: float


def read_chains(folder: Path) -> list[ChainRecord]:
    """Read all chains below a folder that came to their end.

    Args:
        folder: The folder, such as that of a sweep.

    Returns:
        The records, in the order of their folders.

    Raises:
        ValueError: If one is not a record, two are of the same name, setting and seed, or they are of
            different tasks.
    """
    found: dict[object, Path] = {}
    records: list[ChainRecord] = []
    for path in files_named(folder, FILE):
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values.pop("scores")
            record = ChainRecord(**values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path} must be a record of a chain as this release writes it, got {error!r}. Remove it, or "
                "run again."
            ) from error
        key = (record.name, record.setting, record.seed)
        if key in found:
            raise ValueError(
                f"Chains must differ in name, setting or seed, but {found[key]} and {path} are both {key}. "
                "Give `name=...`, or one of their folders."
            )
        if records and record.tasks != records[0].tasks:
            raise ValueError(
                f"Chains must be of the same tasks to be compared, got {records[0].tasks} and, in {path}, "
                f"{record.tasks}. Give a folder with one kind."
            )
        found[key] = path
        records.append(record)
    return records


def compare_chains(records: Iterable[ChainRecord], reference: str = "uniform") -> list[ChainRow]:
    """Average over seeds and compare with a reference.

    Args:
        records: Of the same tasks.
        reference: Name of the method to compare with, at the same setting and seed.

    Returns:
        A row per method and setting, by name.
    """
    groups: dict[tuple[str, Setting], dict[int, ChainRecord]] = {}
    for record in records:
        groups.setdefault((record.name, record.setting), {})[record.seed] = record
    return [
        _row(name, setting, runs, {} if name == reference else groups.get((reference, setting), {}))
        for (name, setting), runs in sorted(groups.items())
    ]


def _row(
    name: str, setting: Setting, runs: dict[int, ChainRecord], reference: dict[int, ChainRecord]
) -> ChainRow:
    scores = [run.scores for run in runs.values()]
    pairs = [(runs[seed].scores, reference[seed].scores) for seed in sorted({*runs} & {*reference})]
    gains = [{key: ours[key] - theirs[key] for key in ours} for ours, theirs in pairs]
    return ChainRow(
        name,
        setting,
        len(runs),
        _intervals(scores),
        _intervals(gains),
        np.mean([run.initial for run in runs.values()], axis=0),
        np.mean([run.accuracies for run in runs.values()], axis=0),
        float(np.mean([run.compute_units for run in runs.values()])),
        float(np.mean([run.seconds for run in runs.values()])),
    )


def _intervals(scores: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    names = scores[0] if scores else ()
    return {name: t_interval([of_seed[name] for of_seed in scores]) for name in names}
