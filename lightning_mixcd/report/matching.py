"""Comparison at equal accuracy on the new task, along the curve of a method."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lightning_mixcd.report.records import Record

__all__ = ["matched_gains"]

Floats = npt.NDArray[np.float64]


def matched_gains(
    settings: Sequence[Mapping[int, Record]], reference: Mapping[int, Record]
) -> dict[int, float]:
    """Return by how much a method keeps more than a reference where both learn the new task as well.

    A method's settings, such as weights of rehearsal, trade prior for new accuracy: their means over the
    seeds are points of a curve. Where that curve has the reference's new accuracy, its prior accuracy is
    taken, linearly between the two points beside it and never beyond the last. Points that another one beats
    on both tasks are left out.

    The curve is one of means because single seeds scatter more than settings differ. What each seed stands
    for is told by leaving it out (the jackknife's pseudo-values), so that gains of several methods are
    pairs by seed as usual.

    Args:
        settings: The method's runs by seed, a mapping per setting.
        reference: The reference's runs by seed.

    Returns:
        The gain in prior accuracy, by common seed; empty for fewer than two settings, or if the reference is
        beside the curve, be it without one of the seeds.
    """
    seeds = sorted(set(reference).intersection(*settings))
    if len(settings) < 2 or not seeds:
        return {}
    points = np.array([_accuracies(runs, seeds) for runs in settings])
    aim = _accuracies(reference, seeds)
    n = len(seeds)
    gain = _gain(points.mean(axis=1), aim.mean(axis=0))
    if n == 1:
        gains = np.array([gain])
    else:
        without = [
            _gain(np.delete(points, k, axis=1).mean(axis=1), np.delete(aim, k, axis=0).mean(axis=0))
            for k in range(n)
        ]
        gains = n * gain - (n - 1) * np.array(without)
    return {} if np.isnan(gains).any() else dict(zip(seeds, gains.tolist(), strict=True))


def _accuracies(runs: Mapping[int, Record], seeds: Sequence[int]) -> Floats:
    return np.array([(runs[seed].new_accuracy, runs[seed].prior_accuracy) for seed in seeds])


def _gain(points: Floats, aim: Floats) -> float:
    new, prior = points[np.argsort(points[:, 0])].T
    unbeaten = prior >= np.maximum.accumulate(prior[::-1])[::-1]
    there = np.interp(aim[0], new[unbeaten], prior[unbeaten], left=np.nan, right=np.nan)
    return float(there - aim[1])
