"""All figures of a report."""

import math
from collections.abc import Callable, Collection

from matplotlib import rc_context
from matplotlib.lines import Line2D

from lightning_mixcd.report.calibration import calibration
from lightning_mixcd.report.curves import composition, curves
from lightning_mixcd.report.forest import cost, gains, gap
from lightning_mixcd.report.maps import damage_map, rehearsed_map
from lightning_mixcd.report.pareto import pareto
from lightning_mixcd.report.picture import LOOK, Picture
from lightning_mixcd.report.style import short
from lightning_mixcd.report.sweep import Sweep

__all__ = ["NAMES", "figures"]

DRAW: dict[str, Callable[[Sweep], Picture | None]] = {
    "pareto": pareto,
    "gains": gains,
    "gap": gap,
    "curves": curves,
    "composition": composition,
    "rates": damage_map,
    "rehearsed": rehearsed_map,
    "calibration": calibration,
    "cost": cost,
}
NAMES = tuple(DRAW)
MOST_LINES = 25


def figures(sweep: Sweep, names: Collection[str] = NAMES) -> list[Picture]:
    """Draw every figure that there is something to show in.

    Args:
        sweep: The runs.
        names: Of the figures, some of `NAMES`; all by default.

    Returns:
        The figures, in the order of the page, with a legend of all methods where lines need one.
    """
    with rc_context(LOOK):
        drawn = [draw(sweep) for name, draw in DRAW.items() if name in names]
        found = [picture for picture in drawn if picture is not None]
        for picture in found:
            if picture.stack is None:
                _add_legend(picture, sweep)
    return found


# Beside the figure; the page has its own.
def _add_legend(picture: Picture, sweep: Sweep) -> None:
    shown = {row["method"] for row in picture.rows}
    # Matplotlib would leave out a name that begins with an underscore.
    handles = [
        Line2D(
            [], [], color=style.color, ls=style.dash, marker=style.marker, ms=5, lw=1, label=f" {short(name)}"
        )
        for name, style in sweep.styles.items()
        if name in shown
    ]
    columns = math.ceil(len(handles) / MOST_LINES)
    picture.figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8, ncols=columns, frameon=False
    )
