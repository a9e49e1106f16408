"""How far an axis goes."""

from collections.abc import Sequence

import numpy as np

from lightning_mixcd.report.intervals import Interval

__all__ = ["limits"]


def limits(intervals: Sequence[Interval]) -> tuple[float, float]:
    """Return the ends of an axis that shows these means with their intervals.

    Means that are further from the middle half than four times its width would press all others together, and
    so would intervals of four times the usual length: the axis does not reach for them.

    Args:
        intervals: At least one.

    Returns:
        Both ends, with a margin.

    Example:
        >>> low, high = limits([Interval(mean, mean, mean) for mean in (0.0, 0.5, 1.0, 0.4, 1000.0)])
        >>> -0.2 < low < 0 and 1 < high < 1.2
        True
    """
    means = np.array([interval.mean for interval in intervals])
    lengths = np.array([interval.high - interval.low for interval in intervals])
    lower, upper = np.quantile(means, [0.25, 0.75])
    reach = 4 * (upper - lower) + np.median(lengths) + 0.02 * abs(upper)
    near = (means >= lower - reach) & (means <= upper + reach)
    usual = lengths <= 4 * np.median(lengths[near])
    lows = np.where(usual, [interval.low for interval in intervals], means)
    highs = np.where(usual, [interval.high for interval in intervals], means)
    low, high = lows[near].min(), highs[near].max()
    margin = 0.08 * (high - low) + 1e-3 * abs(upper) + 1e-9
    return float(low - margin), float(high + margin)
