"""Methods side by side."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lightning_mixcd.report.intervals import Interval, fieller, t_interval
from lightning_mixcd.report.matching import matched_gain, matched_share
from lightning_mixcd.report.records import Record, Setting

__all__ = ["ORACLE", "PLAIN", "Row", "compare"]

ORACLE = "oracle"  # what names of oracles begin with
PLAIN = "none"  # finetuning without anything

Runs = dict[int, Record]  # by seed


@dataclass(frozen=True)
class Row:
    """One method at one setting, over its seeds.

    Args:
        name: Its name.
        setting: Mix ratio, weight of rehearsal, and share of the way to the finetuned weights.
        n: Number of seeds.
        prior: Mean prior accuracy.
        new: Mean new accuracy.
        compute_units: Mean compute units.
        steps: Mean number of optimizer steps.
        exhausted: Whether any run was ended because its compute units were spent.
        damaged_share: Mean share of the rehearsed samples that were damaged; None if not logged.
        trainable_parameters: How many numbers were trained, the mean; None if not counted.
        active_parameters: How many of these acted on the outputs at the end, the mean.
        seconds: Wall-clock time of `fit` as a multiple of that of plain finetuning, the geometric mean.
        prior_gain: Paired difference in prior accuracy to the reference at the same setting.
        new_gain: The same in new accuracy.
        gap_closed: Prior gain as a share of that of the best oracle at the same setting.
        matched_gain: Gain in prior accuracy at the reference's new accuracy, see `matched_gain`.
        matched_gap_closed: That as a share of the best oracle's.

    The last six are None where there is nothing to compare with.
    """

    name: str
    setting: Setting
    n: int
    prior: float
    new: float
    compute_units: float
    steps: float
    exhausted: bool
    damaged_share: float | None
    trainable_parameters: float | None
    active_parameters: float | None
    seconds: Interval | None
    prior_gain: Interval | None
    new_gain: Interval | None
    gap_closed: Interval | None
    matched_gain: Interval | None
    matched_gap_closed: Interval | None


def compare(records: Iterable[Record], *, reference: str = "uniform") -> list[Row]:
    """Compare every method with a reference, seed by seed.

    Args:
        records: Runs, one for each name, setting and seed.
        reference: Name of the method compared with, at the same setting.

    Returns:
        A row per setting and method, the least accurate on the prior task first.

    Example:
        >>> runs = [("uniform", 0.8), ("mixcd", 0.9)]
        >>> records = [Record(s, 0.25, seed, "digits", p, 0.9, 1, 1.0) for s, p in runs for seed in (0, 1)]
        >>> [(row.name, str(row.prior_gain)) for row in compare(records)][1]
        ('mixcd', '+10.0')
    """
    comparison = _Comparison(records, reference)
    rows = [comparison.row(name, setting) for name, setting in comparison.groups]
    return sorted(rows, key=lambda row: (row.setting, row.prior))


class _Comparison:
    def __init__(self, records: Iterable[Record], reference: str) -> None:
        self.reference = reference
        self.groups: dict[tuple[str, Setting], Runs] = {}
        self.plain: Runs = {}
        for record in records:
            self.groups.setdefault((record.name, record.setting), {})[record.seed] = record
            # How much would have been rehearsed makes no difference to a run that rehearses nothing.
            if record.name == PLAIN:
                self.plain.setdefault(record.seed, record)

    def row(self, name: str, setting: Setting) -> Row:
        runs, against = self.groups[name, setting], self.against(setting)
        gains, curve = self.gains(name, setting), self.curve(name, setting)
        oracle = self.best_oracle(setting)
        return Row(
            name,
            setting,
            len(runs),
            float(np.mean([run.prior_accuracy for run in runs.values()])),
            float(np.mean([run.new_accuracy for run in runs.values()])),
            float(np.mean([run.compute_units for run in runs.values()])),
            float(np.mean([run.steps for run in runs.values()])),
            any(run.exhausted for run in runs.values()),
            _mean(run.damaged_share for run in runs.values()),
            _mean(run.trainable_parameters for run in runs.values()),
            _mean(run.active_parameters for run in runs.values()),
            _slowdown(runs, self.plain),
            _interval([*gains.values()]),
            _interval([a.new_accuracy - b.new_accuracy for a, b in _pairs(runs, against)]),
            _ratio(gains, self.gains(oracle, setting)) if oracle else None,
            matched_gain(curve, against),
            matched_share(curve, self.curve(oracle, setting), against) if oracle else None,
        )

    def against(self, setting: Setting) -> Runs:
        return self.groups.get((self.reference, setting._replace(alpha=1.0)), {})

    def gains(self, name: str, setting: Setting) -> dict[int, float]:
        pairs = _pairs(self.groups.get((name, setting), {}), self.against(setting))
        return {a.seed: a.prior_accuracy - b.prior_accuracy for a, b in pairs}

    # The settings of one mix ratio, which cost the same, if there are several.
    def curve(self, name: str, setting: Setting) -> list[Runs]:
        of_name = {other: runs for (named, other), runs in self.groups.items() if named == name}
        alike = [runs for other, runs in of_name.items() if other.mix_ratio == setting.mix_ratio]
        if name == self.reference:
            return []
        return alike if len(alike) > 1 else [*of_name.values()]

    def best_oracle(self, setting: Setting) -> str | None:
        found = {
            name: np.mean([run.prior_accuracy for run in runs.values()])
            for (name, other), runs in self.groups.items()
            if name.startswith(ORACLE) and other == setting
        }
        return max(found, key=lambda name: found[name], default=None)


def _pairs(runs: Runs, others: Runs) -> list[tuple[Record, Record]]:
    return [(runs[seed], others[seed]) for seed in sorted(runs.keys() & others.keys())]


def _interval(values: Sequence[float]) -> Interval | None:
    return t_interval(values) if values else None


def _ratio(gains: Mapping[int, float], of: Mapping[int, float]) -> Interval | None:
    seeds = sorted(gains.keys() & of.keys())
    return fieller([gains[seed] for seed in seeds], [of[seed] for seed in seeds])


def _slowdown(runs: Runs, plain: Runs) -> Interval | None:
    times = [(a.seconds, b.seconds) for a, b in _pairs(runs, plain)]
    logs = _interval([math.log(a / b) for a, b in times if a is not None and b is not None])
    return logs and Interval(math.exp(logs.mean), math.exp(logs.low), math.exp(logs.high), logs.n)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
