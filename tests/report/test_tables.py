import math
from dataclasses import replace

import pytest

from lightning_mixcd.report.tables import compare
from tests.report.runs import record


def row_of(records, name, **setting):
    (row,) = [
        row
        for row in compare(records)
        if row.name == name and all(getattr(row.setting, key) == value for key, value in setting.items())
    ]
    return row


def test_row_is_the_mean_over_seeds_of_what_is_known():
    records = [
        replace(
            record(seed=seed, prior=0.6 + seed / 10, new=0.7 + seed / 10, damaged_share=share),
            compute_units=1000 * seed,
        )
        for seed, share in enumerate((0.25, 0.5, None))
    ]
    (row,) = compare(records)
    assert (row.prior, row.new) == pytest.approx((0.7, 0.8))
    assert (row.compute_units, row.damaged_share) == (1000, 0.375)


def test_differences_are_taken_seed_by_seed():
    records = [record(seed=s, prior=p) for s, p in ((0, 0.5), (1, 0.9))]
    records += [record("mixcd", seed=s, prior=p) for s, p in ((1, 1.0), (0, 0.6), (7, 0.0))]
    row = row_of(records, "mixcd")
    assert row.n == 3
    assert row.prior_gain.mean == pytest.approx(0.1)
    assert row.prior_gain.low == pytest.approx(0.1)  # both pairs differ by as much


def test_another_mix_ratio_or_weight_is_another_comparison():
    records = [record(ratio=0.5), record("mixcd"), record("mixcd", ratio=0.5, rehearsal_weight=3.0)]
    assert all(row.prior_gain is None for row in compare(records) if row.name == "mixcd")


def test_gap_closed_is_the_share_of_the_best_oracle_gain():
    gains = {"uniform": 0.0, "mixcd": 0.03, "oracle": 0.04, "oracle_pure": -0.02, "oracle_25": 0.06}
    records = [
        record(name, seed, 0.7 + gain + 0.01 * seed) for name, gain in gains.items() for seed in range(3)
    ]
    closed = {row.name: row.gap_closed.mean for row in compare(records)}
    assert closed == pytest.approx({name: gain / 0.06 for name, gain in gains.items()})


def test_no_gap_is_closed_where_the_oracle_is_not_above_the_reference():
    priors = {"uniform": (0.7, 0.8), "mixcd": (0.8, 0.9), "oracle": (0.9, 0.7)}
    records = [
        record(name, seed, prior) for name, by_seed in priors.items() for seed, prior in enumerate(by_seed)
    ]
    assert all(row.gap_closed is None for row in compare(records))


def test_time_is_the_mean_ratio_to_plain_finetuning_at_any_setting():
    records = [record("none", seed, seconds=s, ratio=0.5) for seed, s in ((0, 2.0), (1, 10.0))]
    records += [record("mixcd", seed, seconds=s) for seed, s in ((0, 3.0), (1, 60.0))]
    assert row_of(records, "mixcd").seconds.mean == pytest.approx(math.sqrt(1.5 * 6))
    assert row_of(records, "none").seconds.high == 1
    resumed = record("mixcd", 0, seconds=None)
    assert row_of([*records[:3], resumed, records[3]], "mixcd").seconds.mean == pytest.approx(6)
    assert row_of([*records[:2], resumed], "mixcd").seconds is None


def test_gain_at_equal_new_accuracy_comes_from_the_weights_of_one_mix_ratio():
    records = [record(prior=0.4, new=0.85)]
    records += [
        record("mixcd", prior=p, new=n, rehearsal_weight=w) for w, n, p in ((1, 0.9, 0.5), (3, 0.8, 0.7))
    ]
    records += [record("mixcd", prior=0.99, new=0.99, ratio=1.0)]
    row = row_of(records, "mixcd", mix_ratio=0.25, rehearsal_weight=1)
    assert row.prior_gain.mean == pytest.approx(0.1)
    assert row.matched_gain.mean == pytest.approx(0.2)


def test_gain_at_equal_new_accuracy_comes_from_mix_ratios_where_weights_were_not_swept():
    records = [record(prior=0.4, new=0.85)]
    records += [record("mixcd", prior=p, new=n, ratio=r) for r, n, p in ((0.25, 0.9, 0.5), (1.0, 0.8, 0.7))]
    assert row_of(records, "mixcd", mix_ratio=0.25).matched_gain.mean == pytest.approx(0.2)


def test_points_between_base_and_finetuned_weights_are_compared_with_the_finetuned_reference():
    points = ((0.0, 0.1, 0.9), (0.5, 0.8, 0.7), (1.0, 0.9, 0.5))
    records = [record(prior=0.6, new=0.8)]
    records += [record("none+wise_ft", prior=p, new=n, alpha=a) for a, n, p in points]
    row = row_of(records, "none+wise_ft", alpha=1.0)
    assert row.prior_gain.mean == pytest.approx(-0.1)
    assert row.matched_gain.mean == pytest.approx(0.1)


def test_run_that_its_budget_ended_marks_its_row():
    records = [record(seed=0, steps=10), record(seed=1, steps=20, exhausted=True)]
    (row,) = compare(records)
    assert (row.steps, row.exhausted) == (15, True)
