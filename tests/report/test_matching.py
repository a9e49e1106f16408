import numpy as np
import pytest

from lightning_mixcd.report import Record
from lightning_mixcd.report.matching import matched_gains


def runs(*accuracies):
    """One setting: the (new, prior) accuracies of seeds 0, 1, ..."""
    return {
        seed: Record("mixcd", 0.25, seed, "digits", prior, new, 1, 1.0)
        for seed, (new, prior) in enumerate(accuracies)
    }


def test_gain_is_read_off_the_straight_line_between_two_settings():
    curve = [runs((0.9, 0.5)), runs((0.8, 0.7))]
    assert matched_gains(curve, runs((0.85, 0.4))) == pytest.approx({0: 0.2})
    assert matched_gains(curve, runs((0.875, 0.4))) == pytest.approx({0: 0.15})


@pytest.mark.parametrize("new", [0.79, 0.91])
def test_nothing_is_said_beside_the_curve(new):
    assert matched_gains([runs((0.9, 0.5)), runs((0.8, 0.7))], runs((new, 0.4))) == {}


def test_one_setting_is_no_curve():
    assert matched_gains([runs((0.9, 0.5))], runs((0.9, 0.4))) == {}


def test_setting_that_another_beats_is_left_out():
    curve = [runs((0.9, 0.5)), runs((0.85, 0.3)), runs((0.8, 0.7))]
    assert matched_gains(curve, runs((0.85, 0.4))) == pytest.approx({0: 0.2})


def test_order_of_settings_makes_no_difference():
    curve = [runs((0.9, 0.5)), runs((0.86, 0.65)), runs((0.8, 0.7))]
    assert matched_gains(curve, runs((0.88, 0.4))) == matched_gains(curve[::-1], runs((0.88, 0.4)))


def test_where_the_curve_moves_with_the_reference_seeds_are_told_apart_exactly():
    # Everything of a seed is shifted alike, and by as much on both tasks, along a line of slope -1.
    shifts = np.array([-0.02, 0.0, 0.01, 0.03])
    own = np.array([0.05, 0.02, 0.03, 0.04])
    curve = [
        runs(*[(new + s, prior - s + g) for s, g in zip(shifts, own, strict=True)])
        for new, prior in ((0.9, 0.5), (0.7, 0.7))
    ]
    reference = runs(*[(0.8 + s, 0.6 - s) for s in shifts])
    gains = matched_gains(curve, reference)
    assert gains == pytest.approx(dict(enumerate(own)))


def test_reference_that_one_seed_keeps_on_the_curve_is_beside_it():
    curve = [runs((0.9, 0.5), (0.9, 0.5)), runs((0.8, 0.7), (0.8, 0.7))]
    assert matched_gains(curve, runs((0.95, 0.4), (0.85, 0.4))) == {}


def test_only_seeds_that_all_have_count():
    curve = [runs((0.9, 0.5), (0.9, 0.6)), runs((0.8, 0.7))]
    assert {*matched_gains(curve, runs((0.85, 0.4), (0.85, 0.4)))} == {0}
