"""Whether counts look like draws with given chances."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import chisquare

__all__ = ["fits"]

# Seeds in tests are fixed, so a right answer fails for good or never; one in a million would.
SUSPICIOUS = 1e-6


def fits(counts: Sequence[float], weights: Sequence[float] | None = None) -> bool:
    """Whether counts pass a chi-square test against weights; against equal chances if there are none."""
    counts = np.asarray(counts, dtype=float)
    weights = np.ones_like(counts) if weights is None else np.asarray(weights, dtype=float)
    return chisquare(counts, weights / weights.sum() * counts.sum()).pvalue > SUSPICIOUS
