"""All runs below a folder, read once for every figure."""

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from lightning_mixcd.report.records import (
    METRICS,
    Record,
    Setting,
    incomplete_runs,
    read_logged,
    read_records,
)
from lightning_mixcd.report.style import Style, chosen_methods, short, styles
from lightning_mixcd.report.tables import Row, compare

__all__ = ["Group", "Logged", "Sweep", "notes_on", "read_sweep", "wanted_names"]

Group = tuple[str, Setting]  # runs that differ in seed only
Logged = Mapping[str, Mapping[int, float]]  # what a run logged: values by step, by name


@dataclass(frozen=True)
class Sweep:
    """Runs of one pairing.

    Args:
        records: Records by the folders of their runs.
        logs: What each run logged.
        reference: Name of the method compared with.
        notes: What a reader has to know of the runs: those left out, and why.
    """

    records: Mapping[Path, Record]
    logs: Mapping[Path, Logged]
    reference: str
    notes: Sequence[str] = ()

    @cached_property
    def rows(self) -> list[Row]:
        """The methods side by side."""
        return compare(self.records.values(), reference=self.reference)

    @cached_property
    def chosen(self) -> list[str]:
        """The methods that a page shows at first, the most important ones in front."""
        return chosen_methods(self.rows, self.reference)

    @cached_property
    def styles(self) -> dict[str, Style]:
        """The look of every method: the chosen ones in their order, then all others by name."""
        others = sorted({row.name for row in self.rows} - {*self.chosen})
        return styles([*self.chosen, *others])

    @cached_property
    def groups(self) -> dict[Group, list[Path]]:
        """The runs that differ in seed only, in the order of the methods."""
        found: dict[Group, list[Path]] = {}
        for path, record in self.records.items():
            found.setdefault((record.name, record.setting), []).append(path)
        place = {name: k for k, name in enumerate(self.styles)}
        return {key: found[key] for key in sorted(found, key=lambda key: (place[key[0]], key[1]))}

    @property
    def data(self) -> str:
        """Name of the data."""
        return next(iter(self.records.values())).data

    @property
    def seeds(self) -> str:
        """How many seeds the methods have, in words."""
        counts = sorted({len(runs) for runs in self.groups.values()})
        if len(counts) > 1:
            return f"{counts[0]} to {counts[-1]} seeds"
        return f"{counts[0]} seed{'s' * (counts[0] > 1)}"

    def about(self, group: Group) -> dict[str, str | int]:
        """Say which runs a row of a figure's table is of.

        Args:
            group: Method and setting.

        Returns:
            The first columns of the row.
        """
        return {"method": group[0], "setting": str(group[1]), "seeds": len(self.groups[group])}

    def setting(self, setting: Setting) -> str:
        """Say how a method was set, as far as that varies in the sweep.

        Args:
            setting: The setting.

        Returns:
            Such as "weight 3"; empty if nothing varies.
        """
        words = {"mix_ratio": "mix ratio", "rehearsal_weight": "weight", "alpha": "alpha"}
        varying = [name for name in words if len({getattr(other, name) for _, other in self.groups}) > 1]
        return ", ".join(f"{words[name]} {getattr(setting, name):g}" for name in varying)

    def label(self, group: Group) -> str:
        """Name a group in figures.

        Args:
            group: Method and setting.

        Returns:
            The name, shortened if need be, and how the setting differs from others.
        """
        return ", ".join(filter(None, (short(group[0]), self.setting(group[1]))))


def read_sweep(folder: Path, *, reference: str = "uniform", only: str | None = None) -> Sweep:
    """Read all runs below a folder.

    Args:
        folder: The folder, such as that of a sweep.
        reference: Name of the method to compare with.
        only: Names of the methods to read, with commas between; all if None.

    Returns:
        The runs.

    Raises:
        ValueError: If there is none with accuracies, their records cannot be read or compared, or `only`
            names others.
    """
    records = read_records(folder)
    wanted = wanted_names({record.name for record in records.values()}, only)
    measured = {record.name for record in records.values() if _is_measured(record)}
    records = {path: record for path, record in records.items() if record.name in wanted}
    notes = notes_on(folder, measured, wanted, reference)
    for run in [run for run, record in records.items() if not _is_measured(record)]:
        notes.append(f"Its accuracies are not all numbers, and it is in no table or figure: {run}")
        del records[run]
    if not records:
        raise ValueError(
            f"Runs must have measured both tasks, but below {folder} none has accuracies that are numbers. "
            "See what `val/prior/accuracy` and `val/new/accuracy` are in their logs."
        )
    logs: dict[Path, Logged] = {}
    for run in records:
        try:
            logs[run] = read_logged(run / METRICS, "")
        except ValueError as error:
            logs[run] = {}
            notes.append(f"In no curve: {error}")
    return Sweep(records, logs, reference, notes)


def _is_measured(record: Record) -> bool:
    return math.isfinite(record.prior_accuracy) and math.isfinite(record.new_accuracy)


def wanted_names(there: Set[str], only: str | None) -> Set[str]:
    """Say which methods to show.

    Args:
        there: Names of all methods.
        only: Names of those to show, with commas between; all if None.

    Returns:
        Their names.

    Raises:
        ValueError: If there is no such method.
    """
    wanted = there if only is None else {*only.split(",")}
    if not wanted <= there:
        raise ValueError(
            f"`--only` must name methods of these runs, got {sorted(wanted - there)}. There are "
            f"{sorted(there)}."
        )
    return wanted


def notes_on(folder: Path, there: Set[str], wanted: Set[str], reference: str) -> list[str]:
    """Say what a reader has to know of the runs below a folder.

    Args:
        folder: The folder.
        there: Names of all methods.
        wanted: Names of the methods shown.
        reference: Name of the method to compare with.

    Returns:
        Which runs are incomplete, and whether there is nothing to compare with.
    """
    notes = [
        f"Incomplete, without a record, and in no table or figure: {run}" for run in incomplete_runs(folder)
    ]
    if reference not in there:
        notes.append(f"No run is of {reference}, so that there are no gains. Choose another --reference.")
    elif reference not in wanted:
        notes.append(f"--only leaves out {reference}, so that there are no gains. Name it there too.")
    return notes
