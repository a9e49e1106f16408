"""Figures of a comparison."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lightning_mixcd.report.records import Record

__all__ = ["plot_pareto", "plot_rates", "read_rates"]

MARKERS = "osD^vPX*<>hd"
RATE = "rehearsal/rate/"


def plot_pareto(records: Sequence[Record]) -> Figure:
    """Plot prior against new accuracy, a marker per strategy and mix ratio with 95 % error bars over seeds.

    Args:
        records: Runs of one data set.

    Returns:
        The figure; up and to the right is better.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    groups: dict[tuple[str, float], list[Record]] = {}
    for record in records:
        groups.setdefault((record.strategy, record.mix_ratio), []).append(record)
    names = sorted({strategy for strategy, _ in groups})
    for (strategy, ratio), runs in sorted(groups.items()):
        values = 100 * np.array([(run.new_accuracy, run.prior_accuracy) for run in runs])
        mean, error = values.mean(axis=0), 1.96 * values.std(axis=0) / np.sqrt(max(len(runs) - 1, 1))
        k = names.index(strategy)
        label = strategy if len(groups) == len(names) else f"{strategy}, mix ratio {ratio:g}"
        style = {"marker": MARKERS[k % len(MARKERS)], "color": f"C{k % 10}", "capsize": 3, "ms": 8}
        axes.errorbar(*mean, xerr=error[0], yerr=error[1], ls="none", label=label, **style)
    n = max(len(runs) for runs in groups.values())
    axes.set_xlabel("accuracy on the new task (%)")
    axes.set_ylabel("accuracy on the prior task (%)")
    axes.set_title(f"Learning against keeping: {records[0].data}, {n} seeds, bars 95 %")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def read_rates(metrics: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Read the estimated damage rates that a run logged.

    Args:
        metrics: The `metrics.csv` of Lightning's `CSVLogger`.

    Returns:
        Steps, `(T,)`, and rates, `(T, K)`; both empty if none was logged.
    """
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get(f"{RATE}00")]
    bins = sorted(name for name in (rows[0] if rows else {}) if name.startswith(RATE))
    steps = np.array([int(row["step"]) for row in rows], dtype=np.int64)
    return steps, np.array([[float(row[name]) for name in bins] for row in rows], dtype=np.float64)


def plot_rates(runs: Mapping[str, Sequence[Path]]) -> Figure:
    """Plot the estimated damage rate of each bin over time, averaged over runs.

    Args:
        runs: By panel title, the `metrics.csv` files of runs that differ in seed only.

    Returns:
        The figure: a panel each, bins upwards, optimizer steps to the right.
    """
    figure = Figure(figsize=(7, 1 + 3 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), squeeze=False)[:, 0]
    for axes, (title, files) in zip(panels, runs.items(), strict=True):
        read = [read_rates(path) for path in files]
        rates = np.mean([rates for _, rates in read], axis=0)
        steps = read[0][0]
        image = axes.pcolormesh(steps, np.arange(rates.shape[1]), rates.T, vmin=0, cmap="viridis")
        figure.colorbar(image, ax=axes, label="estimated damage rate")
        axes.set_title(f"{title}, mean of {len(files)} seeds")
        axes.set_ylabel("bin")
    panels[-1].set_xlabel("optimizer step")
    return figure
