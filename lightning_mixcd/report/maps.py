"""Bins over time: how much of each is thought to be lost, and how much of rehearsal goes there."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_mixcd.report.picture import Picture, Stack, Value, percent
from lightning_mixcd.report.sweep import Group, Sweep

__all__ = ["RATE", "Floats", "damage_map", "rehearsed_map"]

RATE, ROWS = "rehearsal/rate/", "rehearsal/rows/"
MOST_STEPS = 60
HEAD, PANEL, WIDTH = 0.7, 2.1, 6.5  # inches
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Over(NamedTuple):
    """Values of bins over time.

    Args:
        steps: Optimizer steps, `(T,)`.
        values: From 0 to 1, `(T, K)`.
    """

    steps: Ints
    values: Floats


def damage_map(sweep: Sweep) -> Picture | None:
    """Draw the estimated damage rate of each bin over time, averaged over the seeds of a method.

    Args:
        sweep: The runs.

    Returns:
        The figure, a panel per method and setting; None if no run has bins.
    """
    caption = (
        "Estimated damage rate of each bin over time, mean over the seeds of a method; the brighter, the "
        "more of the bin is thought to be lost. A method that finds structure has bins that differ; one "
        "scale holds for all panels."
    )
    return _map(sweep, RATE, "rates", "Damage map", caption, ("rate", "estimated damage rate (%)"))


def rehearsed_map(sweep: Sweep) -> Picture | None:
    """Draw which share of what was rehearsed came from each bin, over time.

    Args:
        sweep: The runs.

    Returns:
        The figure, a panel per method and setting; None if no run has bins.
    """
    caption = (
        "Of the samples rehearsed up to a step since the one before, how many came from each bin, mean over "
        "the seeds of a method. At the start, when all bins are thought alike, that is how large they are; "
        "later, rehearsal should go where the damage map is bright. One scale holds for all panels."
    )
    title = "What was rehearsed, by bin"
    return _map(sweep, ROWS, "rehearsed", title, caption, ("share", "share of the rehearsed samples (%)"))


# At the steps that all seeds share, at most `MOST_STEPS` of them; None without any.
def _mean(sweep: Sweep, group: Group, prefix: str) -> Over | None:
    logs = [sweep.logs[run] for run in sweep.groups[group]]
    runs = [[log[name] for name in sorted(log) if name.startswith(prefix)] for log in logs]
    runs = [bins for bins in runs if bins]
    common = sorted(set.intersection(*({*of_bin} for bins in runs for of_bin in bins))) if runs else []
    if not common or len({len(bins) for bins in runs}) > 1:
        return None
    picked: Ints = np.unique(np.linspace(0, len(common) - 1, MOST_STEPS).astype(np.int64))
    steps = np.array(common, dtype=np.int64)[picked]
    values = np.array([[[of_bin[step] for of_bin in bins] for step in steps.tolist()] for bins in runs])
    if prefix == ROWS:
        steps, values = _between(steps, values)
    return Over(steps, values.mean(axis=0)) if steps.size else None


# Rows so far, `(S, T, K)`, as shares of the new ones, at the steps up to which every seed has some.
def _between(steps: Ints, rows: Floats) -> tuple[Ints, Floats]:
    kept, last = [], np.zeros(len(rows))
    for t, total in enumerate(rows.sum(axis=2).T):
        if (total > last).all():
            kept.append(t)
            last = total
    picked = np.array(kept, dtype=np.int64)
    new = np.diff(rows[:, picked], axis=1, prepend=0)
    return steps[picked], new / new.sum(axis=2, keepdims=True)


def _map(
    sweep: Sweep, prefix: str, name: str, title: str, caption: str, value: tuple[str, str]
) -> Picture | None:
    found = {group: over for group in sweep.groups if (over := _mean(sweep, group, prefix)) is not None}
    if not found:
        return None
    height = HEAD + PANEL * len(found)
    figure = Figure(figsize=(WIDTH, height))
    column, label = value
    rows: list[dict[str, Value]] = [
        {
            **sweep.about(group),
            "bin": k,
            "step": int(step),
            column: float(over.values[t, k]),
        }
        for group, over in found.items()
        for k in range(over.values.shape[1])
        for t, step in enumerate(over.steps)
    ]
    picture = Picture(name, title, caption, rows, figure, Stack(len(found), PANEL))
    highest = max(float(over.values.max()) for over in found.values())
    for place, (group, over) in enumerate(found.items()):
        bottom = (height - HEAD - PANEL * (place + 1) + 0.5) / height
        axes = figure.add_axes((0.09, bottom, 0.89, (PANEL - 0.85) / height))
        picture.mark(axes, group[0], place=place)
        _panel(picture, axes, group[0], sweep.label(group), over, highest)
    bar = figure.add_axes((0.09, 1 - 0.15 / height, 0.89, 0.1 / height))
    figure.colorbar(axes.collections[0], cax=bar, orientation="horizontal", label=label)
    return picture


def _panel(picture: Picture, axes: Axes, method: str, label: str, over: Over, highest: float) -> None:
    steps = over.steps
    edges = np.concatenate([[max(0, 2 * steps[0] - steps[1])], steps]) if len(steps) > 1 else [0, *steps]
    for k, of_bin in enumerate(over.values.T):
        row = axes.pcolormesh(edges, [k - 0.5, k + 0.5], 100 * of_bin[None], vmin=0, vmax=100 * highest)
        # Without edges of their own, cells have gaps in a browser.
        row.set(edgecolor="face", linewidth=0.4)
        ends = f"{percent(of_bin[0])} at step {steps[0]}, {percent(of_bin[-1])} at step {steps[-1]}"
        picture.mark(row, method, f"{label}, bin {k}: {ends}, highest {percent(of_bin.max())}")
    axes.set_title(label, fontsize=9, loc="left")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("bin")
