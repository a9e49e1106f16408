"""Figures of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lightning_mixcd.report.records import Record, read_logged

__all__ = ["plot_pareto", "plot_rates", "read_rates"]

MARKERS = "osD^vPX*<>hd"
RATE = "rehearsal/rate/"


def plot_pareto(records: Sequence[Record]) -> Figure:
    """Plot prior against new accuracy, a marker per method and mix ratio with 95 % error bars over seeds.

    Args:
        records: Runs of one data set.

    Returns:
        The figure; up and to the right is better.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    groups: dict[tuple[str, float], list[Record]] = {}
    for record in records:
        groups.setdefault((record.name, record.mix_ratio), []).append(record)
    names = sorted({name for name, _ in groups})
    for (name, ratio), runs in sorted(groups.items()):
        values = 100 * np.array([(run.new_accuracy, run.prior_accuracy) for run in runs])
        mean, error = values.mean(axis=0), 1.96 * values.std(axis=0) / np.sqrt(max(len(runs) - 1, 1))
        k = names.index(name)
        label = name if len(groups) == len(names) else f"{name}, mix ratio {ratio:g}"
        axes.errorbar(
            mean[0],
            mean[1],
            xerr=error[0],
            yerr=error[1],
            linestyle="none",
            label=label,
            marker=MARKERS[k % len(MARKERS)],
            color=f"C{k % 10}",
            capsize=3,
            markersize=8,
        )
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
    logged = list(read_logged(metrics, RATE).values())
    steps = sorted(logged[0]) if logged else []
    rates = [[rate_of[step] for rate_of in logged] for step in steps]
    return np.array(steps, dtype=np.int64), np.array(rates, dtype=np.float64)


def plot_rates(runs: Mapping[str, Sequence[Path]]) -> Figure:
    """Plot the estimated damage rate of each bin over time, averaged over runs.

    Args:
        runs: By panel title, the `metrics.csv` files of runs that differ in seed only; at least one.

    Returns:
        The figure: a panel each, bins upwards, optimizer steps to the right.
    """
    figure = Figure(figsize=(7, 1 + 3 * len(runs)), layout="constrained")
    panels = figure.subplots(len(runs), squeeze=False, sharex=True)[:, 0]
    read = {title: [read_rates(path) for path in files] for title, files in runs.items()}
    means = {title: np.mean([rates for _, rates in of_runs], axis=0) for title, of_runs in read.items()}
    # One scale for all panels, or a panel without structure looks as lively as one that has it.
    highest = max(float(mean.max()) for mean in means.values())
    for axes, (title, mean) in zip(panels, means.items(), strict=True):
        steps, bins = read[title][0][0], np.arange(mean.shape[1])
        image = axes.pcolormesh(steps, bins, mean.T, vmin=0, vmax=highest, cmap="viridis")
        axes.set_title(f"{title}, mean of {len(runs[title])} seeds")
        axes.set_ylabel("bin")
    panels[-1].set_xlabel("optimizer step")
    figure.colorbar(image, ax=list(panels), label="estimated damage rate")
    return figure
