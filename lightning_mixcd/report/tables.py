"""Strategies side by side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lightning_mixcd.report.records import Record

__all__ = ["Interval", "Row", "compare", "paired_difference"]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval.

    Args:
        mean: The mean.
        low: Lower end.
        high: Upper end; equal to the mean if there is one value only.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.mean:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"


@dataclass(frozen=True)
class Row:
    """One method at one mix ratio, over its seeds.

    Args:
        name: Its name.
        mix_ratio: Rehearsed samples per finetune sample.
        n: Number of seeds.
        prior: Mean prior accuracy.
        new: Mean new accuracy.
        compute_units: Mean compute units.
        damaged_share: Mean share of the rehearsed samples that were damaged; None if not logged.
        prior_gain: Paired difference in prior accuracy to the reference; None without common seeds.
        new_gain: The same in new accuracy.
    """

    name: str
    mix_ratio: float
    n: int
    prior: float
    new: float
    compute_units: float
    damaged_share: float | None
    prior_gain: Interval | None
    new_gain: Interval | None


def compare(records: Iterable[Record], *, reference: str = "uniform") -> list[Row]:
    """Compare every method with a reference, seed by seed.

    Args:
        records: Runs, one for each name, mix ratio and seed.
        reference: Name of the method compared with, at the same mix ratio.

    Returns:
        A row per mix ratio and method, the least accurate on the prior task first.

    Example:
        >>> runs = [("uniform", 0.8), ("mixcd", 0.9)]
        >>> records = [Record(s, 0.25, seed, "digits", p, 0.9, 1, 1.0) for s, p in runs for seed in (0, 1)]
        >>> [(row.name, str(row.prior_gain)) for row in compare(records)][1]
        ('mixcd', '+10.0 [+10.0, +10.0]')
    """
    groups: dict[tuple[float, str], dict[int, Record]] = {}
    for record in records:
        groups.setdefault((record.mix_ratio, record.name), {})[record.seed] = record
    rows = []
    for (ratio, name), runs in groups.items():
        against = groups.get((ratio, reference), {})
        common = sorted(runs.keys() & against.keys())
        pairs = [(runs[seed], against[seed]) for seed in common]
        rows.append(
            Row(
                name,
                ratio,
                len(runs),
                float(np.mean([run.prior_accuracy for run in runs.values()])),
                float(np.mean([run.new_accuracy for run in runs.values()])),
                float(np.mean([run.compute_units for run in runs.values()])),
                _mean([run.damaged_share for run in runs.values()]),
                paired_difference([(a.prior_accuracy, b.prior_accuracy) for a, b in pairs]),
                paired_difference([(a.new_accuracy, b.new_accuracy) for a, b in pairs]),
            )
        )
    return sorted(rows, key=lambda row: (row.mix_ratio, row.prior))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def paired_difference(pairs: Sequence[tuple[float, float]]) -> Interval | None:
    """Return the mean difference within pairs, with its t interval.

    Args:
        pairs: Values of method and reference, one pair per seed.

    Returns:
        The interval; None without any pair, of width 0 where the differences do not vary.
    """
    if not pairs:
        return None
    differences = np.subtract(*np.transpose(pairs))
    mean = float(differences.mean())
    if len(pairs) == 1 or np.ptp(differences) < 1e-12:
        return Interval(mean, mean, mean)
    low, high = stats.t.interval(0.95, len(pairs) - 1, loc=mean, scale=stats.sem(differences))
    return Interval(mean, float(low), float(high))
