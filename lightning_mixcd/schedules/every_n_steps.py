"""Rehearse at even distances."""

from dataclasses import dataclass

from lightning_mixcd.errors import check_counts, check_range, check_whole

__all__ = ["EveryNSteps"]


@dataclass(frozen=True)
class EveryNSteps:
    """Rehearse at every n-th optimizer step from a first to a last one.

    Rows that fall due at other steps are not saved up: a rehearsed step has `mix_ratio` rows per row of its
    own batch.

    Args:
        n: Distance of rehearsed steps, at least 1.
        first: First rehearsed step, counted from 0, at least 0.
        last: Steps from this one on are not rehearsed; None for no end.

    Raises:
        ValueError: If `n` is below 1, `first` below 0, or `last` is not above `first`.

    Example:
        >>> schedule = EveryNSteps(2, first=4)
        >>> [step for step in range(9) if schedule(step)]
        [4, 6, 8]
    """

    n: int = 1
    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        check_counts("1 rehearses at every step.", n=self.n)
        check_whole(first=self.first, last=0 if self.last is None else self.last)
        check_range("[0, inf)", "Steps are counted from 0.", first=self.first)
        if self.last is not None and self.last <= self.first:
            raise ValueError(
                f"`last` must be above `first` ({self.first}), got {self.last}. None means no end."
            )

    def __call__(self, step: int) -> bool:
        """Return whether an optimizer step, counted from 0, is rehearsed."""
        within = self.first <= step and (self.last is None or step < self.last)
        return within and (step - self.first) % self.n == 0
