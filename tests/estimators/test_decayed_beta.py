"""Rates against a list of every sample ever seen, and what half-life and prior mean."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_mixcd.estimators import DecayedBeta
from tests.oracles import collateral as oracle

N_BINS = 3
samples = st.lists(st.tuples(st.integers(0, N_BINS - 1), st.booleans()), max_size=6)
updates = st.lists(st.tuples(samples, st.sampled_from([0.25, 0.5, 1.0, 3.0])), max_size=8)
positive = st.floats(0.1, 20)


def started(*args, n_bins=N_BINS, **kwargs):
    estimator = DecayedBeta(*args, **kwargs)
    estimator.reset(n_bins)
    return estimator


def learn(estimator, rows, steps=1.0, n_bins=N_BINS):
    bins, damaged = ([row[side] for row in rows] for side in (0, 1))
    counts = torch.tensor(oracle.bin_counts(bins, damaged, n_bins), dtype=torch.float32)
    estimator.update(counts[0], counts[1], steps=steps)


@settings(max_examples=60)
@given(updates, positive, positive, positive)
def test_every_sample_fades_from_its_own_step(history, halflife, a, b):
    estimator, now, seen = started(halflife, a=a, b=b), 0.0, []
    for rows, steps in history:
        now += steps
        learn(estimator, rows, steps)
        seen += [(now, *row) for row in rows]
    expected = oracle.decayed_rates(seen, now, N_BINS, halflife, a, b)
    assert estimator.rates().tolist() == pytest.approx(expected, rel=1e-4)


def test_after_one_halflife_an_observation_counts_half():
    estimator = started(40.0, n_bins=1)
    learn(estimator, [(0, True)] * 8, n_bins=1)
    learn(estimator, [], steps=40, n_bins=1)
    assert (estimator.damaged.item(), estimator.seen.item()) == (4, 4)
    assert estimator.rates().item() == pytest.approx(5 / 6)


def test_without_fading_it_counts_since_the_start():
    estimator = started(math.inf)
    for _ in range(5):
        learn(estimator, [(0, True), (0, False), (0, False), (1, True)], steps=1000)
    assert estimator.rates().tolist() == pytest.approx([6 / 17, 6 / 7, 1 / 2])


def test_a_bin_seen_long_ago_returns_to_the_prior():
    estimator = started(10.0, n_bins=1)
    learn(estimator, [(0, False)] * 100, n_bins=1)
    low = estimator.rates().item()
    learn(estimator, [], steps=200, n_bins=1)
    assert low < 0.01 < 0.49 < estimator.rates().item() <= 0.5


def test_moving_damage_is_followed():
    fading, lasting = started(20.0, n_bins=1), started(math.inf, n_bins=1)
    for estimator in (fading, lasting):
        for hurt in [True] * 200 + [False] * 100:
            learn(estimator, [(0, hurt)], n_bins=1)
    assert fading.rates().item() < 0.1 < 0.6 < lasting.rates().item()


def test_low_precision_default_does_not_reach_counts():
    torch.set_default_dtype(torch.bfloat16)
    try:
        estimator = started()
        assert estimator.rates().dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("name", "end"), [("halflife_steps", r"\]"), ("a", r"\)"), ("b", r"\)")], ids=["halflife", "a", "b"]
)
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_numbers_out_of_range_are_refused(name, end, value):
    if value == math.inf and name == "halflife_steps":
        assert started(value).halflife_steps == value
        return
    with pytest.raises(
        ValueError, match=rf"`{name}` must be in \(0, inf{end}, got {value}\. The default is 1"
    ):
        DecayedBeta(**{name: value})
