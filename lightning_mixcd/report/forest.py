"""A row per method: gains, the gap closed, and costs."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_mixcd.report.intervals import Interval
from lightning_mixcd.report.limits import limits
from lightning_mixcd.report.picture import Picture, Stack, Value
from lightning_mixcd.report.sweep import Sweep
from lightning_mixcd.report.tables import Row

__all__ = ["cost", "gains", "gap"]

HEAD, ROW, WIDTH = 0.6, 0.21, 4.9  # inches


class Column(NamedTuple):
    """One quantity of the methods.

    Args:
        name: Its name in the table.
        label: That of its axis, with unit.
        value: Returns it of a method; None where it has none.
        scale: From table to figure.
        mark: Where there is nothing to see, such as no gain.
    """

    name: str
    label: str
    value: Callable[[Row], Interval | None]
    scale: float
    mark: float


def gains(sweep: Sweep) -> Picture | None:
    """Draw what each method gains over the reference on either task.

    Args:
        sweep: The runs.

    Returns:
        The figure; None if there is no reference to compare with.
    """
    columns = [
        Column("prior_gain", "gain on the prior task (points)", lambda row: row.prior_gain, 100, 0),
        Column("new_gain", "gain on the new task (points)", lambda row: row.new_gain, 100, 0),
    ]
    caption = (
        f"Difference to {sweep.reference} at the same setting, seed by seed, over {sweep.seeds}; bars are "
        "95 % t intervals of the paired differences. One that holds 0 may be chance; of many methods, "
        "one in twenty misses 0 by chance alone."
    )
    return _forest(sweep, "gains", f"Gain over {sweep.reference}", caption, columns)


def gap(sweep: Sweep) -> Picture | None:
    """Draw which share of the oracle's gain each method reaches.

    Args:
        sweep: The runs.

    Returns:
        The figure; None without an oracle that is better than the reference.
    """
    columns = [
        Column("gap_closed", "gap closed (%)", lambda row: row.gap_closed, 100, 0),
        Column("matched_gap_closed", "at equal new accuracy (%)", lambda row: row.matched_gap_closed, 100, 0),
    ]
    columns = [column for column in columns if any(column.value(row) for row in sweep.rows)]
    caption = (
        f"Prior gain over {sweep.reference} as a share of that of the best oracle at the same setting, over "
        f"{sweep.seeds}; bars are 95 % intervals, Fieller's but at equal new accuracy. 0 is "
        f"{sweep.reference}, 100 the oracle, which is shown what is damaged. Settings at which the oracle's "
        "own gain may be nothing are missing."
    )
    return _forest(sweep, "gap", "Gap closed to the oracle", caption, columns)


def cost(sweep: Sweep) -> Picture | None:
    """Draw what each method costs.

    Args:
        sweep: The runs.

    Returns:
        The figure.
    """
    columns = [
        Column("compute_units", "compute units (thousands)", _units, 1e-3, np.nan),
        Column("time", "time, as a multiple of none's", lambda row: row.seconds, 1, 1),
    ]
    columns = [column for column in columns if any(column.value(row) for row in sweep.rows)]
    caption = (
        "Compute units are sample-forwards + 2 x sample-backwards, the ledger and every extra look included; "
        "means. Time is the wall clock of fit against that of plain finetuning with the same seed: geometric "
        f"means over {sweep.seeds}, bars are 95 % t intervals. It says something only if the machine did "
        "nothing else."
    )
    return _forest(sweep, "cost", "What it costs", caption, columns)


def _units(row: Row) -> Interval:
    return Interval(row.compute_units, row.compute_units, row.compute_units, row.n)


def _forest(sweep: Sweep, name: str, title: str, caption: str, columns: Sequence[Column]) -> Picture | None:
    shown = [row for row in sweep.rows if any(column.value(row) for column in columns)]
    shown.sort(key=lambda row: _key(columns[0].value(row)))
    if not shown:
        return None
    labels = [sweep.label((row.name, row.setting)) for row in shown]
    left = 0.3 + 0.076 * max(map(len, labels))
    height = HEAD + ROW * len(shown)
    figure = Figure(figsize=(left + WIDTH, height))
    panels = figure.subplots(
        1,
        len(columns),
        squeeze=False,
        gridspec_kw={
            "left": left / (left + WIDTH),
            "right": 0.98,
            "bottom": 0,
            "top": 1 - HEAD / height,
            "wspace": 0.12,
        },
    )[0]
    rows = [_table_row(row, columns) for row in shown]
    picture = Picture(name, title, caption, rows, figure, Stack(len(shown), ROW))
    for axes, column in zip(panels, columns, strict=True):
        _column(picture, axes, sweep, shown, column)
    beside = panels[0].get_yaxis_transform()
    for place, (row, label) in enumerate(zip(shown, labels, strict=True)):
        text = panels[0].text(-0.02, place, label, ha="right", va="center", transform=beside)
        picture.mark(text, row.name, place=place)
    return picture


def _key(interval: Interval | None) -> float:
    return -np.inf if interval is None else -interval.mean


def _table_row(row: Row, columns: Sequence[Column]) -> dict[str, Value]:
    found: dict[str, Value] = {"method": row.name, "setting": str(row.setting), "seeds": row.n}
    for column in columns:
        interval = column.value(row)
        ends = {"": "mean", "_low": "low", "_high": "high", "_n": "n"}
        found |= {f"{column.name}{end}": getattr(interval, of, None) for end, of in ends.items()}
    return found


def _column(picture: Picture, axes: Axes, sweep: Sweep, shown: Sequence[Row], column: Column) -> None:
    axis = limits([interval for row in shown if (interval := column.value(row)) is not None])
    left, right = (column.scale * end for end in axis)
    edge = 0.03 * (right - left)
    for place, row in enumerate(shown):
        interval, style = column.value(row), sweep.styles[row.name]
        if interval is None:
            continue
        mean, low, high = (column.scale * value for value in (interval.mean, interval.low, interval.high))
        at = min(max(mean, left + edge), right - edge)
        (bar,) = axes.plot([low, high], [place, place], color=style.color, lw=1.5, alpha=0.6)
        (dot,) = axes.plot(at, place, color=style.color, marker=style.marker, ms=5, ls="", clip_on=False)
        if at != mean:
            side = "left" if at > mean else "right"
            note = axes.annotate(
                f"{mean:.0f}", (at, place), (6 if at > mean else -6, 0), textcoords="offset points",
                ha=side, va="center", fontsize=8,
            )  # fmt: skip
            picture.mark(note, row.name, place=place)
        picture.mark(bar, row.name, place=place)
        ends = "" if low == high else f" [{low:.3g}, {high:.3g}]"
        label = sweep.label((row.name, row.setting))
        picture.mark(
            dot, row.name, f"{label}: {column.label} {mean:.4g}{ends}, {interval.n} seeds", place=place
        )
    axes.axvline(column.mark, color="#000000", lw=0.8)
    axes.set_xlim(left, right)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks([])
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xlabel(column.label)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.spines["top"].set_visible(True)
