"""What a run leaves on disk."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

__all__ = ["Record", "read_records"]

FILE = "result.json"


@dataclass(frozen=True)
class Record:
    """What one finetuning run measured at its end.

    Args:
        strategy: Name of the strategy's configuration.
        mix_ratio: Rehearsed samples per finetune sample.
        seed: Seed of base model, data and draws; runs of one seed are a pair.
        data: Name of the data configuration.
        prior_accuracy: On the prior task's validation set, in [0, 1].
        new_accuracy: On the new task's validation set, in [0, 1].
        compute_units: Sample-forwards + 2 x sample-backwards, ledger and extra passes included.
        seconds: Wall-clock time of the run.

    Example:
        >>> Record("mixcd", 0.25, 0, "digits", 0.91, 0.88, 12000, 3.5).strategy
        'mixcd'
    """

    strategy: str
    mix_ratio: float
    seed: int
    data: str
    prior_accuracy: float
    new_accuracy: float
    compute_units: int
    seconds: float

    def write(self, folder: Path) -> None:
        """Write to the run's folder.

        Args:
            folder: The folder.
        """
        (folder / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")


def read_records(folder: Path) -> list[Record]:
    """Read all runs below a folder.

    Args:
        folder: The folder, such as that of a sweep.

    Returns:
        The records, by path.

    Raises:
        ValueError: If there is none, one is not a record, or they are of several data sets.
    """
    found = []
    for path in sorted(folder.rglob(FILE)):
        try:
            values = json.loads(path.read_text())
            found.append(Record(**{field.name: values[field.name] for field in fields(Record)}))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a run's record ({error!r}). Delete it or run again.") from error
    if not found:
        raise ValueError(f"There is no {FILE} below {folder}. Give the folder of a `mixcd-train` run or sweep.")
    data = sorted({record.data for record in found})
    if len(data) > 1:
        raise ValueError(f"Runs of several data sets cannot be compared: {data}. Report on each by itself.")
    return found
