"""Over the steps of a run: learning and forgetting, and what was rehearsed."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_mixcd.report.intervals import Interval, t_interval
from lightning_mixcd.report.picture import Picture, percent
from lightning_mixcd.report.sweep import Group, Sweep

__all__ = ["Point", "composition", "curves", "over_seeds"]

WINDOWS = 24


class Point(NamedTuple):
    """A curve at one time.

    Args:
        step: Optimizer step, the mean of those in the window.
        value: Mean over the seeds, with its interval.
    """

    step: float
    value: Interval


def over_seeds(runs: Sequence[Mapping[int, float]], last: int) -> list[Point]:
    """Average curves of several seeds, within equal windows of time.

    Args:
        runs: By seed, values by step; those that are not a number are passed over.
        last: The last step of all curves of the figure.

    Returns:
        A point per window in which every seed has a value.

    Example:
        >>> [(point.step, point.value.mean) for point in over_seeds([{9: 0.25}, {9: 0.75, 19: 1.0}], 19)]
        [(9.0, 0.5)]
    """
    windows: list[dict[int, list[tuple[int, float]]]] = []
    for run in runs:
        windows.append({})
        for step, value in run.items():
            if not np.isnan(value):
                windows[-1].setdefault(step * WINDOWS // (last + 1), []).append((step, value))
    points = []
    for window in sorted(set(windows[0]).intersection(*windows)) if windows else []:
        means = [np.mean(of_run[window], axis=0) for of_run in windows]
        steps, values = np.array(means).T
        points.append(Point(float(steps.mean()), t_interval(values)))
    return points


def curves(sweep: Sweep) -> Picture | None:
    """Draw the validation accuracy on both tasks over time.

    Args:
        sweep: The runs.

    Returns:
        The figure; None if no run was validated on the way.
    """
    caption = (
        "Validation accuracy while finetuning: the prior task is forgotten, the new one is learnt. Means "
        f"over {sweep.seeds}, bands are 95 % t intervals; a curve ends where the first of its seeds does."
    )
    names = {"val/prior/accuracy": "prior task (%)", "val/new/accuracy": "new task (%)"}
    return _panels(sweep, "curves", "Learning and forgetting", caption, names)


def composition(sweep: Sweep) -> Picture | None:
    """Draw which share of what was rehearsed was damaged, over time.

    Args:
        sweep: The runs.

    Returns:
        The figure; None if that was not logged.
    """
    caption = (
        "Of the samples rehearsed, how many were damaged, that is, right before finetuning and wrong now. "
        "What is aimed well lies above uniform rehearsal. Means over windows of time and "
        f"{sweep.seeds}, bands are 95 % t intervals."
    )
    names = {"rehearsal/damaged_share": "damaged of those rehearsed (%)"}
    return _panels(sweep, "composition", "What was rehearsed", caption, names)


def _panels(sweep: Sweep, name: str, title: str, caption: str, names: Mapping[str, str]) -> Picture | None:
    found = {key: _curves(sweep, key) for key in names}
    found = {key: of_key for key, of_key in found.items() if of_key}
    settings = sorted({setting for of_key in found.values() for _, setting in of_key})
    if not settings:
        return None
    figure = Figure(figsize=(2.2 + 2.5 * len(found), 2.9 * len(settings)), layout="constrained")
    panels = figure.subplots(len(settings), len(found), squeeze=False, sharex=True, sharey="col")
    rows = [
        {
            **sweep.about(group),
            "quantity": key,
            "step": point.step,
            **vars(point.value),
        }
        for key, of_key in found.items()
        for group, points in of_key.items()
        for point in points
    ]
    picture = Picture(name, title, caption, rows, figure)
    for line, setting in zip(panels, settings, strict=True):
        for axes, (key, of_key) in zip(line, found.items(), strict=True):
            axes.set_title(sweep.setting(setting), fontsize=9, loc="left")
            axes.set_ylabel(names[key])
            axes.grid(alpha=0.3)
            for group in (group for group in of_key if group[1] == setting):
                _draw(picture, axes, sweep, group, of_key[group])
    for axes in panels.ravel():
        # An interval over few seeds may reach beyond what a share can be.
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, -2), min(top, 102))
    for axes in panels[-1]:
        axes.set_xlabel("optimizer step")
    return picture


def _curves(sweep: Sweep, key: str) -> dict[Group, list[Point]]:
    logs = {group: [sweep.logs[run].get(key, {}) for run in runs] for group, runs in sweep.groups.items()}
    last = max((step for of_group in logs.values() for log in of_group for step in log), default=0)
    found = {group: over_seeds([log for log in of_group if log], last) for group, of_group in logs.items()}
    return {group: points for group, points in found.items() if points}


def _draw(picture: Picture, axes: Axes, sweep: Sweep, group: Group, points: Sequence[Point]) -> None:
    style, label = sweep.styles[group[0]], sweep.label(group)
    steps = [point.step for point in points]
    mean, low, high = (
        [100 * getattr(point.value, end) for point in points] for end in ("mean", "low", "high")
    )
    band = axes.fill_between(steps, low, high, color=style.color, alpha=0.12, linewidth=0)
    (line,) = axes.plot(
        steps, mean, color=style.color, ls=style.dash, lw=1.2, marker=style.marker, markersize=3
    )
    texts = [
        f"{label}, step {point.step:.0f}: {percent(point.value.mean, point.value.low, point.value.high)}"
        for point in points
    ]
    picture.mark(band, group[0])
    picture.mark(line, group[0], *texts)
