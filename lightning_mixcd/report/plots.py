"""Figures of a comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from lightning_mixcd.report.intervals import t_interval
from lightning_mixcd.report.records import Record, Setting, read_logged

__all__ = ["plot_pareto", "plot_rates", "read_rates"]

MARKERS = "osD^vPX*<>h"  # with ten colours, 110 methods differ
Floats = npt.NDArray[np.float64]
ACCURACIES = ("new_accuracy", "prior_accuracy")
RATE = "rehearsal/rate/"


def plot_pareto(records: Sequence[Record]) -> Figure:
    """Plot prior against new accuracy, a marker per method and setting with 95 % error bars over seeds.

    Args:
        records: Runs of one data set.

    Returns:
        The figure; up and to the right is better. Settings of one method are joined by a line. A method that
        is far from all others is named with its accuracies instead, so that the others can be told apart.
    """
    groups: dict[str, dict[Setting, list[Record]]] = {}
    for record in records:
        groups.setdefault(record.name, {}).setdefault(record.setting, []).append(record)
    curves = {
        name: np.array([_point(runs) for _, runs in sorted(settings.items())])
        for name, settings in groups.items()
    }
    low, high = _limits(np.concatenate([*curves.values()])[:, :2])
    figure = Figure(figsize=(9, max(5, 1 + 0.22 * len(groups))), layout="constrained")
    axes = figure.subplots()
    for k, (name, points) in enumerate(sorted(curves.items())):
        seen = ((points[:, :2] >= low) & (points[:, :2] <= high)).all(axis=1).any()
        label = name if seen else f"{name}: {points[-1, 0]:.1f}, {points[-1, 1]:.1f}"
        new, prior, new_error, prior_error = points.T
        color, marker = f"C{k % 10}", MARKERS[k % len(MARKERS)]
        axes.plot(new, prior, label=label, color=color, marker=marker, linewidth=1, markersize=7)
        axes.errorbar(new, prior, prior_error, new_error, fmt="none", ecolor=color, alpha=0.3)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    n = max(len(runs) for settings in groups.values() for runs in settings.values())
    axes.set_xlabel("accuracy on the new task (%)")
    axes.set_ylabel("accuracy on the prior task (%)")
    axes.set_title(f"Learning against keeping: {records[0].data}, {n} seeds, bars 95 %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


# Means of new and prior accuracy, and half their intervals, in %.
def _point(runs: Sequence[Record]) -> list[float]:
    intervals = [t_interval([getattr(run, name) for run in runs]) for name in ACCURACIES]
    known = [interval for interval in intervals if interval is not None]
    return [100 * i.mean for i in known] + [100 * (i.high - i.mean) for i in known]


# Corners around all points but those that are further from the middle half than four times its width.
def _limits(points: Floats) -> tuple[Floats, Floats]:
    lower, upper = np.quantile(points, [0.25, 0.75], axis=0)
    reach = 4 * (upper - lower) + 1
    near = points[((points >= lower - reach) & (points <= upper + reach)).all(axis=1)]
    low, high = near.min(axis=0), near.max(axis=0)
    margin = 0.1 * (high - low) + 0.5
    return low - margin, high + margin


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
