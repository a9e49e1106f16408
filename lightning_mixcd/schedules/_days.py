"""The days of review of spaced repetition, as FOREVER (arXiv:2601.03938) takes them over."""

__all__ = ["review_day"]

DAYS = (1, 2, 4, 7, 15, 30)


def review_day(i: int) -> int:
    """Return the i-th day of review: 1, 2, 4, 7, 15, 30, then each twice the one before.

    Args:
        i: Which, counted from 0.

    Returns:
        The day.
    """
    return DAYS[i] if i < len(DAYS) else DAYS[-1] << (i - len(DAYS) + 1)
