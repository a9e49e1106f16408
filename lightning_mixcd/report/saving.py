"""Figures as files, and as parts of a page."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_mixcd.report.files import replacing
from lightning_mixcd.report.picture import LOOK, Picture, Value
from lightning_mixcd.report.style import Style

__all__ = ["ENDINGS", "inline_svg", "key_svg", "save", "save_rows"]

ENDINGS = ("png", "svg", "csv")
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def save(picture: Picture, folder: Path) -> None:
    """Write a figure as PNG and SVG, and what it shows as CSV.

    Args:
        picture: The figure.
        folder: The folder.
    """
    for ending in ("png", "svg"):
        with replacing(folder / f"{picture.name}.{ending}") as aside:
            _save(picture, aside, ending)
    save_rows(picture.rows, folder / f"{picture.name}.csv")


def save_rows(rows: Sequence[Mapping[str, Value]], path: Path) -> None:
    """Write a table as CSV.

    Args:
        rows: The table, at least one row; all have the columns of the first.
        path: The file.
    """
    with replacing(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def inline_svg(picture: Picture, methods: Mapping[str, int]) -> str:
    """Draw a figure for a page: in the page's colours, without a legend, its parts marked by method.

    Args:
        picture: The figure.
        methods: Methods to their numbers in the page.

    Returns:
        An `svg` element that needs no namespace.
    """
    for legend in picture.figure.legends:
        legend.set_visible(False)
    svg = io.StringIO()
    _save(picture, svg, "svg", transparent=True)
    root = _parsed(svg)
    for element in [*root.iter()]:
        mark = picture.marks.get(element.get("id", ""))
        if mark is not None:
            element.set("data-m", str(methods[mark.method]))
            points = [*element.iter("use")]
            parts = points if len(points) == len(mark.texts) else [element]
            for part, text in zip(parts, mark.texts, strict=False):
                part.set("class", "mark")
                title = ElementTree.Element("title")
                title.text = text
                part.insert(0, title)
            if mark.place is not None:
                element.set("data-row", str(mark.place))
    _drop_ids(root)
    root.attrib |= {"role": "group", "aria-label": picture.title, "tabindex": "0"}
    if picture.stack is not None:
        root.attrib |= {"data-rows": str(picture.stack.n), "data-height": str(72.0 * picture.stack.height)}
    return _text(root)


def key_svg(style: Style) -> str:
    """Draw the look of a method, for a legend.

    Args:
        style: The look.

    Returns:
        An `svg` element.
    """
    figure, svg = Figure(figsize=(0.45, 0.18)), io.StringIO()
    line = Line2D([0.05, 0.5, 0.95], [0.5] * 3, color=style.color, ls=style.dash, lw=1.2)
    line.set(marker=style.marker, markevery=[1], markersize=6)
    figure.add_artist(line)
    with rc_context({**LOOK, "svg.hashsalt": "key"}):
        figure.savefig(svg, format="svg", transparent=True, metadata=NO_METADATA)
    root = _parsed(svg)
    _drop_ids(root)
    root.set("aria-hidden", "true")
    return _text(root)


def _save(picture: Picture, target: Path | io.StringIO, ending: str, *, transparent: bool = False) -> None:
    with rc_context({**LOOK, "svg.hashsalt": picture.name}):
        picture.figure.savefig(
            target,
            format=ending,
            dpi=150,
            transparent=transparent,
            # The rows of a stack are where they were put; anything else is cut to what is there.
            bbox_inches=None if picture.stack else "tight",
            metadata=NO_METADATA if ending == "svg" else None,
        )


# In the page's colours and font; black is what Matplotlib draws axes and text with.
def _text(root: ElementTree.Element) -> str:
    text = ElementTree.tostring(root, encoding="unicode").replace("#000000", "currentColor")
    return re.sub(r"font-family: [^;]*;\s*", "", text)


# Without namespaces and the style sheet; the page has its own.
def _parsed(svg: io.StringIO) -> ElementTree.Element:
    root = ElementTree.fromstring(svg.getvalue())  # noqa: S314 -- Matplotlib's, drawn right here
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [*element.attrib]:
            value = element.attrib.pop(name)
            element.set(name.rpartition("}")[2], value)
    for defs in root.findall("defs"):
        for sheet in defs.findall("style"):
            defs.remove(sheet)
    return root


# Ids that nothing refers to would be the same in all figures of a page.
def _drop_ids(root: ElementTree.Element) -> None:
    values = [value for element in root.iter() for value in element.attrib.values()]
    used = {value[1:] for value in values if value.startswith("#")}
    used |= {value[5:-1] for value in values if value.startswith("url(#")}
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
