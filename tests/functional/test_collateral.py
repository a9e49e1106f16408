"""Counts, rates and bin probabilities against plain loops, and the laws that they keep."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.functional.collateral import beta_mean, bin_counts, bin_probabilities
from tests.oracles import collateral as oracle

RULES = ["density", "rate"]
rates_of_bins = st.floats(0, 1, width=32)
bins = st.lists(st.tuples(rates_of_bins, st.integers(0, 30)), min_size=1, max_size=8).filter(
    lambda rows: any(size for _, size in rows)
)


def probabilities(rows, **options):
    rates, sizes = (list(column) for column in zip(*rows, strict=True))
    return bin_probabilities(torch.tensor(rates), torch.tensor(sizes), **options)


class TestBinCounts:
    @given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40))
    def test_as_counted_one_by_one(self, samples):
        index = torch.tensor([bin_ for bin_, _ in samples], dtype=torch.int64)
        damaged = torch.tensor([hurt for _, hurt in samples], dtype=torch.bool)
        expected = oracle.bin_counts(index.tolist(), damaged.tolist(), 5)
        assert bin_counts(index, damaged, 5).tolist() == expected

    def test_grades_are_added_up(self):
        counts = bin_counts(torch.tensor([1, 1]), torch.tensor([0.25, 0.5], dtype=torch.float64), 2)
        assert counts.tolist() == [[0, 0.75], [0, 2]]
        assert counts.dtype == torch.float32

    def test_low_precision_default_does_not_reach_counts(self):
        torch.set_default_dtype(torch.bfloat16)
        try:
            counts = bin_counts(torch.zeros(1001, dtype=torch.int64), torch.ones(1001, dtype=torch.bool), 1)
        finally:
            torch.set_default_dtype(torch.float32)
        assert counts.tolist() == [[1001], [1001]]

    def test_nothing_waits_for_the_device(self):
        index, damaged = (
            torch.zeros(3, dtype=torch.int64, device="meta"),
            torch.zeros(3, device="meta").bool(),
        )
        assert bin_counts(index, damaged, 4).shape == (2, 4)


class TestBetaMean:
    @given(st.integers(0, 50), st.integers(0, 50), st.floats(0.1, 5), st.floats(0.1, 5))
    def test_between_prior_and_observed_share(self, damaged, fine, a, b):
        mean = beta_mean(torch.tensor([float(damaged)]), torch.tensor([float(damaged + fine)]), a, b).item()
        prior = a / (a + b)
        observed = damaged / (damaged + fine) if damaged + fine else prior
        assert min(prior, observed) - 1e-6 <= mean <= max(prior, observed) + 1e-6
        assert 0 < mean < 1

    def test_posterior_mean_by_integration(self):
        # The mean of p under p^s (1 - p)^(m - s) p^(a - 1) (1 - p)^(b - 1), summed on a grid.
        s, m, a, b = 3.0, 10.0, 2.0, 0.5
        p = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        density = p ** (s + a - 1) * (1 - p) ** (m - s + b - 1)
        expected = ((p * density).sum() / density.sum()).item()
        assert beta_mean(torch.tensor([s]), torch.tensor([m]), a, b).item() == pytest.approx(
            expected, abs=1e-3
        )


class TestBinProbabilities:
    @pytest.mark.parametrize("rule", RULES)
    @given(rows=bins, floor=st.floats(0, 1))
    def test_as_weighed_sample_by_sample(self, rule, rows, floor):
        rates, sizes = (list(column) for column in zip(*rows, strict=True))
        found = probabilities(rows, rule=rule, floor=floor)
        expected = oracle.bin_probabilities(rates, sizes, rule, floor)
        assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-12)

    @pytest.mark.parametrize("rule", RULES)
    @given(rows=bins, floor=st.floats(0, 1))
    def test_sums_to_one_and_leaves_out_empty_bins(self, rule, rows, floor):
        found = probabilities(rows, rule=rule, floor=floor)
        assert found.dtype == torch.float64
        assert found.sum().item() == pytest.approx(1)
        assert all(q == 0 for q, (_, size) in zip(found.tolist(), rows, strict=True) if size == 0)

    @given(rates=st.lists(rates_of_bins, min_size=1, max_size=8), size=st.integers(1, 1000))
    def test_rules_agree_on_equal_bins(self, rates, size):
        found = [probabilities([(rate, size) for rate in rates], rule=rule) for rule in RULES]
        assert torch.allclose(*found, rtol=1e-12)

    @given(rows=bins, floor=st.floats(0.01, 1))
    def test_floor_is_the_least_share_of_each_sample(self, rows, floor):
        n = sum(size for _, size in rows)
        for q, (_, size) in zip(probabilities(rows, floor=floor).tolist(), rows, strict=True):
            assert q >= floor * size / n - 1e-12

    @pytest.mark.parametrize("rule", RULES)
    def test_no_damage_anywhere_is_uniform_over_samples(self, rule):
        rows = [(0.0, 1), (0.0, 3), (0.0, 0)]
        assert probabilities(rows, rule=rule, floor=0.0).tolist() == [0.25, 0.75, 0]

    def test_density_makes_a_sample_as_likely_as_its_bin_is_damaged(self):
        q = probabilities([(0.1, 900), (0.4, 100)], floor=0.0)
        assert ((q[1] / 100) / (q[0] / 900)).item() == pytest.approx(4)

    def test_rate_makes_a_bin_as_likely_as_it_is_damaged(self):
        q = probabilities([(0.1, 900), (0.4, 100)], rule="rate", floor=0.0)
        assert (q[1] / q[0]).item() == pytest.approx(4)
