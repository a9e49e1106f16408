"""A figure with what it shows: drawn once, then saved as a file of its own and put into the page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from matplotlib.artist import Artist
from matplotlib.figure import Figure

__all__ = ["Mark", "Picture", "Stack", "Value", "percent"]

Value = str | int | float | None
# Text stays text, and the same runs give the same file.
LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Mark(NamedTuple):
    """A part of a figure that belongs to one method.

    Args:
        method: The method.
        texts: What is said of it, or of each of its points; empty for a part that says nothing by itself.
        place: Its row in a stack; None elsewhere.
    """

    method: str
    texts: tuple[str, ...] = ()
    place: int | None = None


class Stack(NamedTuple):
    """Rows of one height below each other, in inches; a page closes the gaps of those it hides.

    Args:
        n: Number of rows.
        height: Of each.
    """

    n: int
    height: float


@dataclass
class Picture:
    """One figure.

    Args:
        name: Name of its files.
        title: What it is, in a few words.
        caption: What it shows, and what its intervals are.
        rows: What it shows, as a table: method, setting, and so on; values in their own units, shares from 0
            to 1.
        figure: The figure.
        stack: Set if it is made of rows.
        marks: The parts of methods by their ids.
    """

    name: str
    title: str
    caption: str
    rows: Sequence[Mapping[str, Value]]
    figure: Figure
    stack: Stack | None = None
    marks: dict[str, Mark] = field(default_factory=dict)

    def mark(self, artist: Artist, method: str, *texts: str, place: int | None = None) -> None:
        """Note that a part of the figure belongs to a method.

        Args:
            artist: The part.
            method: The method.
            *texts: What is said of it, or of each of its points.
            place: Its row in a stack.
        """
        gid = f"mark{len(self.marks)}"
        artist.set_gid(gid)
        self.marks[gid] = Mark(method, texts, place)


def percent(mean: float, low: float | None = None, high: float | None = None) -> str:
    """Write a share in percent.

    Args:
        mean: The share.
        low: Lower end of its interval, if there is one.
        high: Upper end.

    Returns:
        Such as "83.1 % [82.0, 84.2]".
    """
    text = f"{100 * mean:.1f} %"
    return text if low is None or high is None else f"{text} [{100 * low:.1f}, {100 * high:.1f}]"
