"""Explained predictions as one HTML page that needs nothing but itself."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

from lightning_mixcd.report.explained import Explanation, Sample
from lightning_mixcd.report.picture import Value
from lightning_mixcd.report.rendering import part, render

__all__ = ["explained_page"]


def explained_page(
    title: str, explanations: Sequence[Explanation], settings: Mapping[str, object], notes: Sequence[str] = ()
) -> str:
    """Write the page.

    Args:
        title: Its title.
        explanations: What is shown, a section each.
        settings: How it was made, name to value.
        notes: What a reader has to mind.

    Returns:
        The HTML.
    """
    return render(
        "explained.html",
        title=title,
        sections=[_section(explanation) for explanation in explanations],
        settings=settings,
        notes=notes,
        style=part("page.css") + part("explained.css"),
    )


def _section(explanation: Explanation) -> dict[str, object]:
    samples = [*explanation.supporting, *explanation.opposing]
    return {
        "title": explanation.title,
        "queries": [_entry(query) for query in explanation.queries],
        "sides": [
            ("Supporting", [_entry(sample) for sample in explanation.supporting]),
            ("Opposing", [_entry(sample) for sample in explanation.opposing]),
        ],
        "heads": [*samples[0].facts] if samples else [],
        "shown": any(sample.shown is not None for sample in samples),
        "texts": any(isinstance(sample.shown, str) for sample in samples),
    }


def _entry(sample: Sample) -> dict[str, object]:
    text = sample.shown if isinstance(sample.shown, str) else ""
    return {
        "index": sample.index,
        "text": text,
        "picture": _png(sample.shown) if isinstance(sample.shown, np.ndarray) else "",
        "facts": {name: _fact(value) for name, value in sample.facts.items()},
    }


def _fact(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _png(pixels: npt.NDArray[np.float64]) -> str:
    file = io.BytesIO()
    imsave(file, pixels, cmap="gray", vmin=0, vmax=1, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
