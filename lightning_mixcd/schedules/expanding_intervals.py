"""Rehearse at growing distances."""

from dataclasses import dataclass
from itertools import count

from lightning_mixcd.errors import check_counts
from lightning_mixcd.schedules._days import review_day

__all__ = ["ExpandingIntervals"]


@dataclass(frozen=True)
class ExpandingIntervals:
    """Rehearse 1, 2, 4, 7, 15, 30, 60, 120 ... days after the start, a day being some optimizer steps.

    The days are those of spaced repetition: what was rehearsed more often is forgotten later. `ModelTime` has
    the same days, measured by how far the weights have moved.

    Args:
        day: Optimizer steps of a day.
        burst: Steps rehearsed in a row from each of these days on.

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> schedule = ExpandingIntervals(day=10, burst=2)
        >>> [step for step in range(100) if schedule(step)]
        [10, 11, 20, 21, 40, 41, 70, 71]
    """

    day: int = 24
    burst: int = 1

    def __post_init__(self) -> None:
        check_counts("These are optimizer steps.", day=self.day)
        check_counts("The strategy `NoRehearsal()` rehearses nothing.", burst=self.burst)

    def __call__(self, step: int) -> bool:
        """Return whether an optimizer step, counted from 0, is rehearsed."""
        latest = 0
        for start in (self.day * review_day(i) for i in count()):
            if start > step:
                break
            latest = start
        return 0 < latest <= step < latest + self.burst
