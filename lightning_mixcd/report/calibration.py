"""Calibration: how true the estimated damage rates are."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_mixcd.report.intervals import t_interval
from lightning_mixcd.report.maps import RATE, Floats
from lightning_mixcd.report.picture import Picture, percent
from lightning_mixcd.report.sweep import Group, Sweep

__all__ = ["calibration"]

TRUE_RATE = "rehearsal/true_rate/"
BUCKETS = 10


def calibration(sweep: Sweep) -> Picture | None:
    """Draw the true damage rates of bins against the estimates at the same time.

    Args:
        sweep: The runs.

    Returns:
        The figure; None where no true rates were logged.
    """
    found = {group: of_group for group in sweep.groups if (of_group := _calibrated(sweep, group))}
    if not found:
        return None
    rows = [row for of_group in found.values() for row in of_group]
    settings = sorted({setting for _, setting in found})
    figure = Figure(figsize=(4.6, 4.4 * len(settings)))
    panels = figure.subplots(len(settings), squeeze=False, sharex=True, sharey=True)[:, 0]
    caption = (
        "On the dotted line an estimate is right; below it, damage is overrated. Bins and times are sorted "
        f"into {BUCKETS} groups by the estimated rate; each point is the mean estimate and the mean truth of "
        "a group, which a full pass over the pool has shown; bars are 95 % t intervals over seeds."
    )
    picture = Picture("calibration", "Calibration of estimated damage rates", caption, rows, figure)
    top = 100 * max(max(float(row["true"]), float(row["estimated"])) for row in rows)
    for axes, setting in zip(panels, settings, strict=True):
        axes.set_title(sweep.setting(setting), fontsize=9, loc="left")
        axes.plot([0, top], [0, top], color="#000000", ls=":", lw=1)
        for group in (group for group in found if group[1] == setting):
            _draw(picture, axes, sweep, group, found[group])
        # An interval over two seeds may reach far beyond what a rate can be.
        axes.set_ylim(-2, min(100.0, 1.3 * top) + 2)
        axes.set_ylabel("true damage rate (%)")
        axes.grid(alpha=0.3)
    panels[-1].set_xlabel("estimated damage rate (%)")
    return picture


def _calibrated(sweep: Sweep, group: Group) -> list[dict[str, float | str]]:
    buckets: dict[int, list[Floats]] = {}
    for run in sweep.groups[group]:
        log = sweep.logs[run]
        pairs = np.array([
            (estimate, log[TRUE_RATE + name.removeprefix(RATE)][step])
            for name, of_bin in log.items()
            if name.startswith(RATE)
            for step, estimate in of_bin.items()
            if step in log.get(TRUE_RATE + name.removeprefix(RATE), {})
        ]).reshape(-1, 2)
        places = np.minimum((pairs[:, 0] * BUCKETS).astype(int), BUCKETS - 1)
        for bucket in np.unique(places).tolist():
            buckets.setdefault(bucket, []).append(pairs[places == bucket].mean(axis=0))
    found: list[dict[str, float | str]] = []
    for _, means in sorted(buckets.items()):
        estimated, true = np.array(means).T
        interval = t_interval(true)
        found.append({
            **sweep.about(group),
            "seeds": len(means),
            "estimated": float(estimated.mean()),
            "true": interval.mean,
            "true_low": interval.low,
            "true_high": interval.high,
        })
    return found


def _draw(
    picture: Picture, axes: Axes, sweep: Sweep, group: Group, rows: Sequence[dict[str, float | str]]
) -> None:
    style, label = sweep.styles[group[0]], sweep.label(group)
    x, y, low, high = (
        np.array([100 * float(row[name]) for row in rows])
        for name in ("estimated", "true", "true_low", "true_high")
    )
    bars = axes.errorbar(x, y, [y - low, high - y], fmt="none", ecolor=style.color, elinewidth=1, alpha=0.5)
    (line,) = axes.plot(x, y, color=style.color, ls=style.dash, lw=1, marker=style.marker, markersize=5)
    texts = []
    for row in rows:
        true = percent(float(row["true"]), float(row["true_low"]), float(row["true_high"]))
        texts.append(
            f"{label}: estimated {percent(float(row['estimated']))}, true {true}, {row['seeds']} seeds"
        )
    picture.mark(bars.lines[2][0], group[0])
    picture.mark(line, group[0], *texts)
