"""What a run leaves on disk."""

import csv
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args

from lightning_mixcd.report.files import files_named, write_text

__all__ = ["Record", "Setting", "incomplete_runs", "read_logged", "read_records"]

FILE = "result.json"
METRICS = Path("logs", "metrics.csv")  # as `conf/logger/csv.yaml` has it


class Setting(NamedTuple):
    """How a method was set to trade the prior task for the new one.

    Args:
        mix_ratio: Rehearsed samples per finetune sample.
        rehearsal_weight: Weight of a rehearsed sample in the loss.
        alpha: How far the weights are from the base model (0) to the finetuned one (1).
    """

    mix_ratio: float
    rehearsal_weight: float = 1.0
    alpha: float = 1.0

    def __str__(self) -> str:
        text = f"mix ratio {self.mix_ratio:g}"
        text += "" if self.rehearsal_weight == 1 else f", weight {self.rehearsal_weight:g}"
        return text + ("" if self.alpha == 1 else f", alpha {self.alpha:g}")


@dataclass(frozen=True)
class Record:
    """What one finetuning run measured at its end.

    Args:
        name: Name of the run's method: by default its strategy and its penalties, "+" between.
        mix_ratio: Rehearsed samples per finetune sample.
        seed: Seed of base model, data and draws; runs of one seed are a pair.
        data: Name of the data configuration.
        prior_accuracy: On the prior task's validation set, in [0, 1].
        new_accuracy: On the new task's validation set, in [0, 1].
        compute_units: Sample-forwards + 2 x sample-backwards, ledger and extra passes included.
        seconds: Wall-clock time of `fit`; None of a run that went on from a checkpoint.
        damaged_share: Share of the rehearsed samples that were damaged, over the run; None if not known. Of
            earlier releases the mean of what was logged.
        steps: Optimizer steps made.
        exhausted: Whether the run was ended because its compute units were spent.
        rehearsal_weight: Weight of a rehearsed sample in the loss.
        penalties: Names of the penalties.
        alpha: How far the weights are from the base model (0) to the finetuned one (1); see `wise_ft_curve`.
        trainable_parameters: How many numbers were trained; None if not counted.
        active_parameters: How many of these acted on the outputs at the end.
        active_blocks: Names of the layers that a selective adapter left adapted.
        data_hash: Stands for all options of the data but the seed, as they came to; None in records of
            earlier releases.
        checkpoints: Those that the run left below its folder; None in records of earlier releases.

    Example:
        >>> Record("mixcd", 0.25, 0, "digits", 0.91, 0.88, 12000, 3.5).name
        'mixcd'
    """

    name: str
    mix_ratio: float
    seed: int
    data: str
    prior_accuracy: float
    new_accuracy: float
    compute_units: int
    seconds: float | None
    damaged_share: float | None = None
    steps: int = 0
    exhausted: bool = False
    rehearsal_weight: float = 1.0
    penalties: tuple[str, ...] = ()
    alpha: float = 1.0
    trainable_parameters: int | None = None
    active_parameters: int | None = None
    active_blocks: tuple[str, ...] = ()
    data_hash: str | None = None
    checkpoints: tuple[str, ...] | None = None

    @property
    def setting(self) -> Setting:
        """How the method was set."""
        return Setting(self.mix_ratio, self.rehearsal_weight, self.alpha)

    def write(self, folder: Path) -> None:
        """Write to the run's folder.

        Args:
            folder: The folder; made if need be.
        """
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, json.dumps(asdict(self), indent=1) + "\n")


def read_records(folder: str | Path) -> dict[Path, Record]:
    """Read all runs below a folder.

    Args:
        folder: The folder, such as that of a sweep.

    Returns:
        The records by the folders of their runs, in the order of these.

    Raises:
        ValueError: If there is none, one is not a record, two are of the same name, setting and seed, or they
            are of several data sets.
    """
    found: dict[Path, Record] = {}
    seen: dict[tuple[str, str, Setting, int], Path] = {}
    for path in files_named(Path(folder), FILE):
        try:
            record = _record(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a run's record ({error!r}). Delete it or run again.") from error
        key = (record.data, record.name, record.setting, record.seed)
        if key in seen:
            raise ValueError(
                f"{path.parent} and {seen[key]} are both {record.name}, {record.setting}, seed "
                f"{record.seed}. Name methods apart when they run, such as `name=mixcd_label`, or delete one."
            )
        found[path.parent], seen[key] = record, path.parent
    if not found:
        raise ValueError(
            f"There is no {FILE} below {folder}. Give the folder of a `mixcd-train` run or sweep."
        )
    data = sorted({record.data for record in found.values()})
    if len(data) > 1:
        raise ValueError(f"Runs of several data sets cannot be compared: {data}. Report on each by itself.")
    return found


def _record(values: Mapping[str, Any]) -> Record:
    known = {field.name: values[field.name] for field in fields(Record) if field.name in values}
    known["penalties"] = values["penalties"]  # which earlier releases did not write
    for name in ("penalties", "active_blocks", "checkpoints"):
        if known.get(name) is not None:
            known[name] = tuple(known[name])
    record = Record(**known)
    for field in fields(Record):
        value, kinds = getattr(record, field.name), {*(get_args(field.type) or [field.type])}
        if kinds.isdisjoint({int, float}) or (value is None and NoneType in kinds):
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"`{field.name}` must be a number, got {value!r}")
    if record.seconds is not None and not record.seconds > 0:
        raise ValueError(f"`seconds` must be above 0, got {record.seconds!r}")
    return record


def incomplete_runs(folder: Path) -> list[Path]:
    """Find the runs that were begun and have left no record: running still, killed, or failed.

    Args:
        folder: The folder, such as that of a sweep.

    Returns:
        The folders of these runs, in order.
    """
    ended = {path.parent for name in (FILE, "chain.json") for path in files_named(folder, name)}
    configs = files_named(folder, "config.yaml")
    begun = {path.parent.parent for path in configs if path.parent.name == ".hydra"}
    return sorted(run for run in begun - ended if not (run / "record.log").exists())


def read_logged(metrics: str | Path, prefix: str) -> dict[str, dict[int, float]]:
    """Read what a run logged.

    Args:
        metrics: The `metrics.csv` of Lightning's `CSVLogger`; a file that is not there has logged nothing.
        prefix: What the names begin with.

    Returns:
        By name, in their order, the values by optimizer step.

    Raises:
        ValueError: If the file is damaged.
    """
    metrics, found = Path(metrics), dict[str, dict[int, float]]()
    if not metrics.exists():
        return found
    try:
        with metrics.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            names = sorted(name for name in reader.fieldnames or () if name.startswith(prefix))
            for row in reader:
                step = int(row["step"])
                for name in names:
                    if row[name]:
                        found.setdefault(name, {})[step] = float(row[name])
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{metrics} is damaged ({error!r}). Run again, or delete it to leave the run out of curves."
        ) from error
    return dict(sorted(found.items()))
