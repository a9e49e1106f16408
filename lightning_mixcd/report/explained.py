"""What finetuned predictions come from: the pretrain samples that support and that oppose them most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lightning_mixcd.report.picture import Value

__all__ = ["Explanation", "Sample", "table"]


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
