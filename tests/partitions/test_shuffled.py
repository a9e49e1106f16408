"""Bins that mean nothing, of the sizes of bins that do."""

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByLabel, Partition, Shuffled


def ledger(n=3000):
    rng = np.random.default_rng(0)
    label = rng.choice(3, size=n, p=[0.7, 0.2, 0.1])
    # How often the base model is right depends on the class, which sizes among correct samples must keep.
    return Ledger.from_arrays(
        correct=rng.random(n) < np.array([0.9, 0.5, 0.1])[label], loss=[0.1] * n, label=label
    )


def test_sizes_stay_among_correct_and_among_wrong_samples():
    made = ledger()
    plain, shuffled = ByLabel().bins(made), Shuffled(ByLabel()).bins(made)
    for group in (made.correct, ~made.correct):
        assert np.bincount(shuffled[group]).tolist() == np.bincount(plain[group]).tolist()


@pytest.mark.parametrize("correct", [True, False])
def test_bins_tell_nothing_about_the_class_of_a_sample(correct):
    made = ledger()
    group = made.correct == correct
    label, shuffled = (bins[group] for bins in (ByLabel().bins(made), Shuffled(ByLabel()).bins(made)))
    assert chi2_contingency(np.histogram2d(label, shuffled, bins=3)[0]).pvalue > 1e-6


def test_seed_decides():
    made = ledger()
    a, b, c = (Shuffled(ByLabel(), seed=seed).bins(made) for seed in (1, 1, 2))
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


def test_bins_that_a_partition_keeps_are_left_alone():
    class Kept(Partition):
        def assign(self, ledger):
            return kept

    kept = np.repeat(np.arange(3, dtype=np.int8), 1000)
    before = kept.copy()
    assert not np.array_equal(Shuffled(Kept()).bins(ledger()), kept)
    assert np.array_equal(kept, before)
