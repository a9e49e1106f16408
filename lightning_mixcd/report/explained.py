"""What finetuned predictions come from: the pretrain samples that support and that oppose them most.

As a table, and as one HTML page that needs nothing but itself.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from matplotlib.image import imsave

from lightning_mixcd.report.picture import Value
from lightning_mixcd.report.rendering import part, render

__all__ = ["Explanation", "Sample", "explained_page", "table"]


@dataclass(frozen=True)
class Sample:
    """A sample that is shown.

    Args:
        index: Its position in its set.
        facts: What is known of it, by name.
        shown: Its text or its picture, `(H, W)` or `(H, W, 3)` in [0, 1]; None where it has neither.
    """

    index: int
    facts: Mapping[str, Value]
    shown: str | npt.NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Explanation:
    """Where the loss on some queries comes from.

    Args:
        title: What was asked.
        supporting: Pretrain samples that lowered the loss most, the strongest first.
        opposing: Those that raised it most.
        queries: What was asked about, or some of it.
    """

    title: str
    supporting: Sequence[Sample]
    opposing: Sequence[Sample]
    queries: Sequence[Sample] = field(default=())


def table(explanations: Sequence[Explanation]) -> list[dict[str, Value]]:
    """Lay explanations out as one table.

    Args:
        explanations: At least one.

    Returns:
        A row per query set, side and sample.

    Example:
        >>> sample = Sample(7, {"score": -0.5}, "a text")
        >>> table([Explanation("all", [sample], [])])
        [{'queries': 'all', 'side': 'supports', 'rank': 1, 'pool index': 7, 'score': -0.5, 'text': 'a text'}]
    """
    return [
        {
            "queries": explanation.title,
            "side": side,
            "rank": rank,
            "pool index": sample.index,
            **sample.facts,
            **({"text": sample.shown} if isinstance(sample.shown, str) else {}),
        }
        for explanation in explanations
        for side, samples in (("supports", explanation.supporting), ("opposes", explanation.opposing))
        for rank, sample in enumerate(samples, start=1)
    ]


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
        explanations=explanations,
        settings=settings,
        notes=notes,
        fact=_fact,
        png=_png,
        style=part("page.css") + part("explained.css"),
    )


def _fact(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _png(pixels: npt.NDArray[np.float64]) -> str:
    file = io.BytesIO()
    imsave(file, pixels, cmap="gray", vmin=0, vmax=1, format="png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
