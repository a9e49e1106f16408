"""Damage rates by bin: where damage is seen over time, and how true the estimates are."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_mixcd.report.intervals import t_interval
from lightning_mixcd.report.picture import Picture, Stack, Value, percent
from lightning_mixcd.report.sweep import Group, Logged, Sweep

__all__ = ["calibration", "damage_map", "rates_of"]

RATE, TRUE_RATE = "rehearsal/rate/", "rehearsal/true_rate/"
MOST_STEPS = 60
BUCKETS = 10
INCH = 72.0
HEAD, PANEL, WIDTH = 0.7, 2.1, 6.5  # inches
Floats = npt.NDArray[np.float64]


def rates_of(log: Logged, prefix: str = RATE) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return the damage rates that a run logged.

    Args:
        log: What it logged.
        prefix: What the names of the rates begin with.

    Returns:
        Steps, `(T,)`, and rates, `(T, K)`; both empty if none was logged.
    """
    logged = [log[name] for name in sorted(log) if name.startswith(prefix)]
    steps = sorted(set(logged[0]).intersection(*logged)) if logged else []
    rates = [[rate_of[step] for rate_of in logged] for step in steps]
    return np.array(steps, dtype=np.int64), np.array(rates, dtype=np.float64)


def damage_map(sweep: Sweep) -> Picture | None:
    """Draw the estimated damage rate of each bin over time, averaged over the seeds of a method.

    Args:
        sweep: The runs.

    Returns:
        The figure, a panel per method and setting; None if no run has bins.
    """
    means = {group: _mean_rates(sweep, group) for group in sweep.groups}
    means = {group: found for group, found in means.items() if found[0].size}
    if not means:
        return None
    height = HEAD + PANEL * len(means)
    figure = Figure(figsize=(WIDTH, height))
    caption = (
        "Estimated damage rate of each bin over time, mean over the seeds of a method; the brighter, the "
        "more of the bin is thought to be lost. A method that finds structure has bins that differ; one "
        "scale holds for all panels."
    )
    rows: list[dict[str, Value]] = [
        {
            "method": group[0],
            "setting": str(group[1]),
            "seeds": len(sweep.groups[group]),
            "bin": k,
            "step": int(step),
            "rate": float(rates[t, k]),
        }
        for group, (steps, rates) in means.items()
        for k in range(rates.shape[1])
        for t, step in enumerate(steps)
    ]
    picture = Picture("rates", "Damage map", caption, rows, figure, Stack(len(means), PANEL * INCH))
    highest = max(float(rates.max()) for _, rates in means.values())
    for place, (group, (steps, rates)) in enumerate(means.items()):
        bottom = (height - HEAD - PANEL * (place + 1) + 0.5) / height
        axes = figure.add_axes((0.09, bottom, 0.89, (PANEL - 0.85) / height))
        picture.mark(axes, group[0], place=place)
        _panel(picture, axes, sweep.label(group), steps, rates, highest, group)
    image = axes.collections[0]
    bar = figure.add_axes((0.09, 1 - 0.15 / height, 0.89, 0.1 / height))
    figure.colorbar(image, cax=bar, orientation="horizontal", label="estimated damage rate (%)")
    return picture


# At the steps that all seeds share, at most `MOST_STEPS` of them.
def _mean_rates(sweep: Sweep, group: Group) -> tuple[npt.NDArray[np.int64], Floats]:
    found = [rates_of(sweep.logs[run]) for run in sweep.groups[group]]
    found = [(steps, rates) for steps, rates in found if steps.size]
    common = sorted({*found[0][0].tolist()}.intersection(*(s.tolist() for s, _ in found))) if found else []
    if not common or len({rates.shape[1] for _, rates in found}) > 1:
        return np.empty(0, dtype=np.int64), np.empty((0, 0))
    picked: npt.NDArray[np.int64] = np.unique(np.linspace(0, len(common) - 1, MOST_STEPS).astype(np.int64))
    steps = np.array(common, dtype=np.int64)[picked]
    rates = [of_run[np.searchsorted(own, steps)] for own, of_run in found]
    return steps, np.mean(rates, axis=0)


def _panel(
    picture: Picture,
    axes: Axes,
    label: str,
    steps: npt.NDArray[np.int64],
    rates: Floats,
    highest: float,
    group: Group,
) -> None:
    edges = np.concatenate([[max(0, 2 * steps[0] - steps[1])], steps]) if len(steps) > 1 else [0, *steps]
    for k, of_bin in enumerate(rates.T):
        row = axes.pcolormesh(edges, [k - 0.5, k + 0.5], 100 * of_bin[None], vmin=0, vmax=100 * highest)
        # Without edges of their own, cells have gaps in a browser.
        row.set(edgecolor="face", linewidth=0.4)
        ends = f"{percent(of_bin[0])} at step {steps[0]}, {percent(of_bin[-1])} at step {steps[-1]}"
        picture.mark(row, group[0], f"{label}, bin {k}: {ends}, highest {percent(of_bin.max())}")
    axes.set_title(label, fontsize=9, loc="left")
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("bin")


def calibration(sweep: Sweep) -> Picture | None:
    """Draw the true damage rates of bins against the estimates at the same time.

    Args:
        sweep: The runs.

    Returns:
        The figure; None where no true rates were logged.
    """
    rows = [row for group in sweep.groups for row in _calibrated(sweep, group)]
    if not rows:
        return None
    figure = Figure(figsize=(4.6, 4.4))
    axes = figure.subplots()
    caption = (
        "On the dotted line an estimate is right; below it, damage is overrated. Bins and times are sorted "
        f"into {BUCKETS} groups by the estimated rate; each point is the mean estimate and the mean truth of "
        "a group, which a full pass over the pool has shown; bars are 95 % t intervals over seeds."
    )
    picture = Picture("calibration", "Calibration of estimated damage rates", caption, rows, figure)
    top = 100 * max(max(float(row["true"]), float(row["estimated"])) for row in rows)
    axes.plot([0, top], [0, top], color="#000000", ls=":", lw=1)
    for group in sweep.groups:
        own = [row for row in rows if (row["method"], row["setting"]) == (group[0], str(group[1]))]
        if own:
            _draw(picture, axes, sweep, group, own)
    # An interval over two seeds may reach far beyond what a rate can be.
    axes.set_ylim(-2, min(100.0, 1.3 * top) + 2)
    axes.set_xlabel("estimated damage rate (%)")
    axes.set_ylabel("true damage rate (%)")
    axes.grid(alpha=0.3)
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
        if interval is not None:
            found.append({
                "method": group[0],
                "setting": str(group[1]),
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
