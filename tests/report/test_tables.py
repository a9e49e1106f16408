import math

import numpy as np
import pytest

from lightning_mixcd.report import Record
from lightning_mixcd.report.tables import compare, paired_difference


def record(name="uniform", seed=0, prior=0.8, new=0.9, ratio=0.25, units=100):
    return Record(name, ratio, seed, "digits", prior, new, units, 1.0)


def test_interval_is_the_t_interval_of_the_differences():
    rng = np.random.default_rng(0)
    pairs = [(float(a), float(b)) for a, b in rng.normal(size=(7, 2))]
    differences = [a - b for a, b in pairs]
    mean = sum(differences) / 7
    spread = math.sqrt(sum((d - mean) ** 2 for d in differences) / 6)
    half = (
        2.4469118511449692 * spread / math.sqrt(7)
    )  # t quantile 0.975 with 6 degrees of freedom, from tables
    interval = paired_difference(pairs)
    assert interval.mean == pytest.approx(mean)
    assert (interval.low, interval.high) == (pytest.approx(mean - half), pytest.approx(mean + half))


def test_differences_are_taken_seed_by_seed():
    records = [record(seed=s, prior=p) for s, p in ((0, 0.5), (1, 0.9))]
    records += [record("mixcd", seed=s, prior=p) for s, p in ((1, 1.0), (0, 0.6), (7, 0.0))]
    row = next(row for row in compare(records) if row.name == "mixcd")
    assert row.n == 3
    assert row.prior_gain.mean == pytest.approx(0.1)
    assert row.prior_gain.low == pytest.approx(0.1)  # both pairs differ by as much


def test_another_mix_ratio_is_another_comparison():
    rows = compare([record(ratio=0.5), record("mixcd", ratio=0.25)])
    assert {row.name: row.prior_gain is None for row in rows} == {"uniform": False, "mixcd": True}
