import itertools
import math

import numpy as np
import pytest

from lightning_mixcd.report import Record, matching
from lightning_mixcd.report.intervals import fieller, t_interval
from lightning_mixcd.report.matching import matched_gain, matched_share


def runs(*accuracies):
    """One setting: the (new, prior) accuracies of seeds 0, 1, ..."""
    return {
        seed: Record("mixcd", 0.25, seed, "digits", prior, new, 1, 1.0)
        for seed, (new, prior) in enumerate(accuracies)
    }


def ends(interval):
    return interval.mean, interval.low, interval.high


def test_gain_is_read_off_the_straight_line_between_two_settings():
    curve = [runs((0.9, 0.5)), runs((0.8, 0.7))]
    assert ends(matched_gain(curve, runs((0.85, 0.4)))) == pytest.approx((0.2, 0.2, 0.2))
    assert ends(matched_gain(curve, runs((0.875, 0.4)))) == pytest.approx((0.15, 0.15, 0.15))


def test_beyond_an_end_of_the_curve_one_side_is_known():
    curve = [runs((0.9, 0.5)), runs((0.8, 0.7))]
    assert ends(matched_gain(curve, runs((0.91, 0.4)))) == pytest.approx((-math.inf, -math.inf, 0.1))
    assert ends(matched_gain(curve, runs((0.79, 0.4)))) == pytest.approx((math.inf, 0.3, math.inf))


def test_where_more_of_it_does_not_help_the_curve_goes_on_level():
    curve = [runs((0.9, 0.7)), runs((0.8, 0.6))]
    assert ends(matched_gain(curve, runs((0.75, 0.4)))) == pytest.approx((0.3, 0.3, 0.3))


def test_setting_that_another_beats_counts_as_that_one():
    curve = [runs((0.9, 0.5)), runs((0.85, 0.3)), runs((0.8, 0.7))]
    assert matched_gain(curve, runs((0.85, 0.4))).mean == pytest.approx(0.1)
    assert matched_gain(curve, runs((0.825, 0.4))).mean == pytest.approx(0.2)


def test_one_setting_is_no_curve_and_other_seeds_tell_nothing():
    one, two, reference = runs((0.9, 0.5)), runs((0.8, 0.7)), runs((0.85, 0.4))
    assert matched_gain([one], reference) is None
    assert matched_gain([one, two], {7: reference[0]}) is None
    assert matched_share([one], [one, two], reference) is None
    assert matched_share([one, two], [one], reference) is None


def test_order_of_settings_makes_no_difference():
    curve = [runs((0.9, 0.5)), runs((0.86, 0.65)), runs((0.8, 0.7))]
    assert matched_gain(curve, runs((0.88, 0.4))) == matched_gain(curve[::-1], runs((0.88, 0.4)))


@pytest.mark.parametrize("places", list(itertools.permutations(range(3))))
def test_of_settings_that_learn_as_much_the_one_that_keeps_more_counts(places):
    curve = [runs((0.5, 0.8)), runs((0.5, 0.6)), runs((0.9, 0.3))]
    found = matched_gain([curve[place] for place in places], runs((0.7, 0.4)))
    assert ends(found) == pytest.approx((0.15, 0.15, 0.15))


def test_only_seeds_that_all_have_count():
    curve = [runs((0.9, 0.5), (0.9, 0.6)), runs((0.8, 0.7))]
    assert ends(matched_gain(curve, runs((0.85, 0.4), (0.85, 0.4)))) == pytest.approx((0.2, 0.2, 0.2))


def moving(own, *, at=0.6):
    """Settings and a reference on one line of slope -1, along which the seeds move; own gains on top."""
    shifts = np.linspace(-0.02, 0.03, len(own))
    settings = [
        runs(*[(new + s, prior - s + g) for s, g in zip(shifts, own, strict=True)])
        for new, prior in ((0.9, 0.5), (0.7, 0.7))
    ]
    return settings, runs(*[(0.8 + s, at - s) for s in shifts])


@pytest.mark.parametrize("n", [3, 10])
def test_where_seeds_move_along_the_curve_it_is_the_t_interval_of_the_paired_gains(n):
    own = np.random.default_rng(n).normal(0.03, 0.01, n)
    known = t_interval(own)
    gain = matched_gain(*moving(own))
    assert gain.mean == pytest.approx(known.mean)
    assert (gain.low, gain.high) == pytest.approx(
        (known.low, known.high), abs=0.05 * (known.high - known.low)
    )


def test_share_is_that_of_fieller_on_such_a_curve():
    rng = np.random.default_rng(0)
    best = rng.normal(0.06, 0.01, 8)
    own = 0.5 * best + rng.normal(0, 0.01, 8)
    (curve, reference), known = moving(own), fieller(own, best)
    share = matched_share(curve, moving(best)[0], reference)
    assert share.mean == pytest.approx(known.mean)
    assert (share.low, share.high) == pytest.approx(
        (known.low, known.high), abs=0.05 * (known.high - known.low)
    )
    assert ends(matched_share(curve, curve, reference)) == pytest.approx((1, 1, 1))


def test_no_share_of_what_may_be_nothing_or_is_open():
    curve, reference = moving([0.03, 0.04, 0.05])
    assert matched_share(curve, moving([-0.03, 0.04, 0.05])[0], reference) is None
    beside = runs((0.65, 0.6), (0.65, 0.6), (0.65, 0.6))
    assert matched_share(curve, moving([0.05, 0.06, 0.07])[0], beside) is None


# Almost upright, then a corner, falling, and level at the end.
CURVE = np.array([(0.903, 0.80), (0.902, 0.82), (0.900, 0.845), (0.890, 0.860), (0.880, 0.858)])


@pytest.mark.parametrize("n", [5, 10])
@pytest.mark.parametrize(
    ("new", "kept", "closed"),
    [(0.8850, 0.860, True), (0.8950, 0.8525, True), (0.9000, 0.845, False), (0.9025, 0.81, False)],
    ids=["level", "falling", "corner", "edge"],
)
def test_interval_misses_one_gain_in_twenty_at_corners_too(monkeypatch, n, new, kept, closed):
    monkeypatch.setattr(matching, "DRAWS", 500)
    truth, rng, repeats = 0.02, np.random.default_rng(n), 100
    means = np.vstack([CURVE, (new, kept - truth)])
    missed = stated = 0
    for _ in range(repeats):
        of_seed = rng.normal(0, 0.005, (n, 1, 2))
        values = means + of_seed + rng.normal(0, 0.002, (n, len(means), 2))
        *curve, reference = (runs(*values[:, k]) for k in range(len(means)))
        gain = matched_gain(curve, reference)
        missed += gain is not None and not gain.low <= truth <= gain.high
        stated += gain is not None and np.isfinite([gain.low, gain.high]).all()
    assert missed / repeats <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert stated / repeats > 0.9 or not closed
