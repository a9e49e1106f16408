"""Learning the new task against keeping the prior one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_mixcd.report.intervals import Interval, t_interval
from lightning_mixcd.report.limits import limits
from lightning_mixcd.report.picture import Picture, Value, percent
from lightning_mixcd.report.records import Record
from lightning_mixcd.report.sweep import Group, Sweep
from lightning_mixcd.report.tables import ORACLE

__all__ = ["pareto"]

Floats = npt.NDArray[np.float64]
OVERSHOT = 0.02  # a budget's last step is made whole
ACCURACIES = {"new": "new_accuracy", "prior": "prior_accuracy"}


def pareto(sweep: Sweep) -> Picture:
    """Draw prior against new accuracy, a mark per method and setting with 95 % error bars over seeds.

    Args:
        sweep: The runs.

    Returns:
        The figure; up and to the right is better. Settings of one method are joined by a line. A method that
        is far from all others stands at the edge, with its accuracies.
    """
    groups = [*sweep.groups]
    points = {group: _point([sweep.records[run] for run in sweep.groups[group]]) for group in groups}
    rows: list[dict[str, Value]] = [
        {
            **sweep.about(group),
            **dict(zip(COLUMNS, points[group].tolist(), strict=True)),
        }
        for group in groups
    ]
    figure = Figure(figsize=(6.5, 4.6))
    axes = figure.subplots()
    caption = (
        f"Up and to the right is better. Means over {sweep.seeds}; bars are 95 % t intervals. "
        f"{_spent(sweep)} Settings of one method are joined by a line."
    )
    picture = Picture("pareto", "Learning against keeping", caption, rows, figure)
    ends = [
        limits([Interval(*point[columns]) for point in points.values()])
        for columns in (slice(0, 3), slice(3, 6))
    ]
    low, high = np.array(ends).T
    axes.set_xlim(100 * low[0], 100 * high[0])
    axes.set_ylim(100 * low[1], 100 * high[1])
    for name in sweep.styles:
        own = [group for group in groups if group[0] == name]
        _draw(picture, axes, sweep, own, np.array([points[group] for group in own]), low, high)
    axes.set_xlabel("accuracy on the new task (%)")
    axes.set_ylabel("accuracy on the prior task (%)")
    axes.grid(alpha=0.3)
    return picture


COLUMNS = tuple(f"{name}{end}" for name in ACCURACIES for end in ("", "_low", "_high"))


# New and prior accuracy, each as mean and both ends of its interval.
def _point(runs: Sequence[Record]) -> Floats:
    intervals = [t_interval([getattr(run, name) for run in runs]) for name in ACCURACIES.values()]
    return np.array([(i.mean, i.low, i.high) for i in intervals]).ravel()


def _draw(
    picture: Picture, axes: Axes, sweep: Sweep, own: list[Group], points: Floats, low: Floats, high: Floats
) -> None:
    name, style = own[0][0], sweep.styles[own[0][0]]
    x, y = points[:, 0], points[:, 3]
    (line,) = axes.plot(100 * x, 100 * y, color=style.color, linestyle=style.dash, lw=1)
    picture.mark(line, name)
    bars = axes.errorbar(
        100 * x,
        100 * y,
        100 * np.abs(points[:, [4, 5]] - y[:, None]).T,
        100 * np.abs(points[:, [1, 2]] - x[:, None]).T,
        fmt="none",
        ecolor=style.color,
        elinewidth=1,
        alpha=0.35,
    )
    for bar in bars.lines[2]:
        picture.mark(bar, name)
    for group, point in zip(own, points, strict=True):
        at = np.clip(point[[0, 3]], low, high)
        text = f"{sweep.label(group)}: new {percent(*point[:3])}, prior {percent(*point[3:])}"
        (mark,) = axes.plot(*100 * at, color=style.color, marker=style.marker, ls="", ms=6, clip_on=False)
        picture.mark(mark, name, text)
        if (at != point[[0, 3]]).any():
            _name_at_edge(picture, axes, (name, sweep.label(group)), point, at)


# Towards the middle, where there is room.
def _name_at_edge(picture: Picture, axes: Axes, group: tuple[str, str], point: Floats, at: Floats) -> None:
    name, label = group
    left = at[0] < np.mean(axes.get_xlim()) / 100
    note = axes.annotate(
        f"{label}: {100 * point[0]:.1f}, {100 * point[3]:.1f}",
        tuple(100 * at),
        xytext=(7 if left else -7, 4),
        ha="left" if left else "right",
        textcoords="offset points",
        fontsize=8,
    )
    picture.mark(note, name)


def _spent(sweep: Sweep) -> str:
    rows = [row for row in sweep.rows if not row.name.startswith(ORACLE)] or sweep.rows
    steps, units = [row.steps for row in sweep.rows], [row.compute_units for row in rows]
    free = "; those of oracles look for free" if len(rows) < len(sweep.rows) else ""
    if all(row.exhausted for row in rows) and max(units) <= (1 + OVERSHOT) * min(units):
        return f"All runs ended at equal compute, {np.mean(units):,.0f} units{free}."
    spent = f"{min(units):,.0f} to {max(units):,.0f} compute units{free}."
    if len({*steps}) == 1:
        return f"All runs made {steps[0]:,.0f} steps, at {spent}"
    return f"Runs differ in what they spent: {min(steps):,.0f} to {max(steps):,.0f} steps, {spent}"
