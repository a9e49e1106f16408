"""Comparison at equal accuracy on the new task, along the curve of a method."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from lightning_mixcd.report.intervals import Interval
from lightning_mixcd.report.records import Record

__all__ = ["matched_gain", "matched_share"]

DRAWS = 10_000

Floats = npt.NDArray[np.float64]
Runs = Mapping[int, Record]  # by seed


def matched_gain(curve: Sequence[Runs], reference: Runs) -> Interval | None:
    """Return by how much a method keeps more than a reference where both learn the new task as well.

    A method's settings, such as weights of rehearsal, trade prior for new accuracy: their means over the
    seeds are points of a curve, straight between them. Where that curve has the reference's new accuracy, its
    prior accuracy is taken. A setting that keeps less than one that learns more counts as keeping as much as
    that one, so that the curve falls.

    The curve is one of means because single seeds scatter more than settings differ. The interval takes all
    means to be uncertain together: they are drawn from their joint t distribution, each draw makes a curve
    of its own (Monte Carlo propagation, JCGM 101:2008), and the interval holds the middle 95 % of the gains.
    Where settings lie on a straight line along which the seeds move, it is the t interval of the paired
    gains.

    Beyond an end of the curve only one side is known: at a higher new accuracy than that of any setting, the
    method keeps at most what it keeps there; at a lower one at least the most that it keeps, and just that if
    more of it has been seen not to help. If this happens in more than one of 40 draws, the interval is open.

    Args:
        curve: The method's runs by seed, a mapping per setting.
        reference: The reference's runs by seed.

    Returns:
        The gain in prior accuracy over their common seeds; infinite at an open end, and itself if the means
        are beyond the curve's end. None for fewer than two settings, without a common seed, or if both ends
        are open.
    """
    seeds = _common_seeds([*curve, reference])
    if len(curve) < 2 or not seeds:
        return None
    means = _drawn_means([*curve, reference], seeds)
    return _interval(*_gains(means[:, :-1], means[:, -1]), len(seeds))


def matched_share(curve: Sequence[Runs], best: Sequence[Runs], reference: Runs) -> Interval | None:
    """Return `matched_gain` of a method as a share of another's.

    Args:
        curve: The method's runs by seed, a mapping per setting.
        best: The same of the other.
        reference: The reference's runs by seed.

    Returns:
        The ratio of the gains, over the seeds that all have; None where either is None or open, or where the
        other's gain may be nothing.
    """
    seeds = _common_seeds([*curve, *best, reference])
    if min(len(curve), len(best)) < 2 or not seeds:
        return None
    means = _drawn_means([*curve, *best, reference], seeds)
    low, high = _gains(means[:, : len(curve)], means[:, -1])
    below, above = _gains(means[:, len(curve) : -1], means[:, -1])
    whole = _interval(below, above, len(seeds))
    if whole is None or whole.low <= 0 or np.isinf(whole.high):
        return None
    known = below == above
    share = _interval(
        np.divide(low, below, out=np.full_like(low, -np.inf), where=known),
        np.divide(high, below, out=np.full_like(low, np.inf), where=known),
        len(seeds),
    )
    return share if share is not None and np.isfinite([share.low, share.high]).all() else None


def _common_seeds(runs: Sequence[Runs]) -> list[int]:
    return sorted(set(runs[0]).intersection(*runs[1:]))


# The means over some seeds, (new, prior) of each mapping, then draws of them, `(D, S, 2)`.
def _drawn_means(runs: Sequence[Runs], seeds: Sequence[int]) -> Floats:
    pairs = [[(of[seed].new_accuracy, of[seed].prior_accuracy) for of in runs] for seed in seeds]
    values = np.array(pairs).reshape(len(seeds), -1)
    means = drawn = values.mean(axis=0)
    if len(seeds) > 1:
        spread = np.cov(values, rowvar=False) / len(seeds)
        drawn = stats.multivariate_t.rvs(means, spread, df=len(seeds) - 1, size=DRAWS, random_state=0)
    return np.vstack([means, drawn]).reshape(-1, len(runs), 2)


# The least and the most that curves, `(D, K, 2)`, may keep more than what they are compared with, `(D, 2)`.
def _gains(points: Floats, aim: Floats) -> tuple[Floats, Floats]:
    order = np.lexsort((points[..., 1], points[..., 0]), axis=1)  # by new, then by prior accuracy
    points = np.take_along_axis(points, order[..., None], axis=1)
    new, prior = points[..., 0], points[..., 1]
    kept = np.maximum.accumulate(prior[:, ::-1], axis=1)[:, ::-1]
    passed = (aim[:, :1] - new[:, :-1]) / np.maximum(np.diff(new), 1e-12)  # how much of each stretch
    gain = kept[:, 0] + (np.diff(kept) * passed.clip(0, 1)).sum(axis=1) - aim[:, 1]
    low = np.where(aim[:, 0] > new[:, -1], -np.inf, gain)
    return low, np.where((aim[:, 0] < new[:, 0]) & (kept[:, 0] == prior[:, 0]), np.inf, gain)


# Of the least and the most in each draw, after the estimate.
def _interval(low: Floats, high: Floats, n: int) -> Interval | None:
    lower, upper = (
        float(np.quantile(values[1:], q, method="inverted_cdf"))
        for values, q in ((low, 0.025), (high, 0.975))
    )
    if not np.isfinite([lower, upper]).any():
        return None
    return Interval(float(low[0] + high[0]) / 2, lower, upper, n)
