"""Quotas and shuffles: exact laws by enumeration, fair chances by chi-square at fixed keys."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.functional.sampling import bin_quotas, permute, stream_key
from tests.oracles.chance import fits


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def quotas(probabilities, capacities, n, seed=0):
    return bin_quotas(
        torch.tensor(probabilities, dtype=torch.float64),
        torch.tensor(capacities),
        n,
        generator=generator(seed),
    ).tolist()


class TestBinQuotas:
    @given(
        rows=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=6),
        share=st.floats(0, 1),
        seed=st.integers(0, 99),
    )
    def test_whole_budget_within_capacities(self, rows, share, seed):
        probabilities, capacities = (list(column) for column in zip(*rows, strict=True))
        n = int(share * sum(capacities))
        found = quotas(probabilities, capacities, n, seed)
        assert sum(found) == n
        assert all(0 <= quota <= capacity for quota, capacity in zip(found, capacities, strict=True))

    def test_bins_come_up_as_often_as_they_should(self):
        q, n, draws = torch.tensor([0.05, 0.15, 0.5, 0.3, 0.0]), 7, 3000
        g = generator(1)
        total = sum(bin_quotas(q, torch.full((5,), 100), n, generator=g) for _ in range(draws))
        assert total[4] == 0
        assert fits(total[:4], q[:4])

    def test_samples_fall_independently(self):
        # Two samples into two even bins: 0, 1 or 2 in the first, as 1 : 2 : 1.
        g = generator(2)
        even, room = torch.ones(2), torch.tensor([9, 9])
        counts = np.bincount([int(bin_quotas(even, room, 2, generator=g)[0]) for _ in range(4000)])
        assert fits(counts, [1, 2, 1])

    def test_what_a_bin_cannot_hold_goes_to_the_others_in_proportion(self):
        g = generator(3)
        q, room = torch.tensor([0.98, 0.005, 0.015]), torch.tensor([2, 1000, 1000])
        total = sum(bin_quotas(q, room, 40, generator=g) for _ in range(200)).tolist()
        assert total[0] == 400
        assert fits(total[1:], [1, 3])

    def test_bins_of_no_weight_serve_when_nothing_else_is_left(self):
        assert quotas([1.0, 0.0, 0.0], [1, 0, 4], 5) == [1, 0, 4]

    def test_same_seed_same_quotas_and_other_seeds_others(self):
        found = [quotas([0.2, 0.3, 0.5], [50, 50, 50], 40, seed) for seed in (0, 0, 1)]
        assert found[0] == found[1] != found[2]

    def test_weights_need_not_sum_to_one(self):
        assert quotas([2.0, 4.0], [90, 90], 30) == quotas([1 / 3, 2 / 3], [90, 90], 30)


class TestPermute:
    @given(size=st.integers(1, 600), key=st.integers(0, 2**64 - 1))
    def test_every_value_once(self, size, key):
        values = permute(range(size), size, key)
        assert values.dtype == np.int64
        assert sorted(values.tolist()) == list(range(size))

    @pytest.mark.parametrize("size", [2**k + d for k in (10, 13) for d in (-1, 0, 1)])
    def test_every_value_once_about_powers_of_two(self, size):
        assert np.array_equal(np.sort(permute(range(size), size, 5)), np.arange(size))

    @given(st.lists(st.integers(0, 999), max_size=20), st.integers(0, 9))
    def test_a_place_has_its_value_whoever_else_is_asked(self, positions, key):
        assert permute(positions, 1000, key).tolist() == permute(range(1000), 1000, key)[positions].tolist()

    def test_positions_stay_as_they_were(self):
        positions = np.arange(5, dtype=np.uint64)
        permute(positions, 5, 1)
        assert positions.tolist() == [0, 1, 2, 3, 4]

    @pytest.mark.parametrize("size", [10**8 + 7, 2**40 + 1])
    def test_large_pools_take_no_more_than_small_ones(self, size):
        places = np.unique(np.linspace(0, size - 1, 1024).astype(np.int64))
        values = permute(places, size, 11)
        assert len(np.unique(values)) == 1024
        assert values.min() >= 0
        assert values.max() < size
        # Neighbours land far apart, in all parts of the range.
        assert fits(np.histogram(values, bins=8, range=(0, size))[0])

    @pytest.mark.parametrize("size", [2, 3, 5, 6, 7])
    def test_every_value_is_equally_likely_in_every_place(self, size):
        keys = 4000
        seen = np.zeros((size, size), dtype=int)
        for key in range(keys):
            seen[np.arange(size), permute(range(size), size, stream_key(size, key))] += 1
        assert all(map(fits, seen))

    @pytest.mark.parametrize("size", [3, 4])
    def test_every_order_is_equally_likely(self, size):
        orders = dict.fromkeys(itertools.permutations(range(size)), 0)
        for key in range(3000):
            orders[tuple(permute(range(size), size, stream_key(0, key)).tolist())] += 1
        assert fits(list(orders.values()))


class TestStreamKey:
    def test_splitmix64_reference(self):
        # First outputs of splitmix64 from state 0, as published with the generator.
        assert stream_key(0) == 0xE220A8397B1DCDAF
        assert stream_key(1) == 0x6E789E6AA1B965F4

    def test_parts_order_and_number_tell_keys_apart(self):
        parts = [p for n in (1, 2, 3) for p in itertools.product(range(12), repeat=n)]
        assert len({stream_key(*p) for p in parts}) == len(parts)

    @given(st.lists(st.integers(-(2**70), 2**70), max_size=4))
    def test_in_range_for_any_whole_numbers(self, parts):
        assert 0 <= stream_key(*parts) < 2**64

    def test_one_bit_more_changes_half_of_the_bits(self):
        flips = [(stream_key(3, i) ^ stream_key(3, i ^ 1)).bit_count() for i in range(500)]
        assert np.mean(flips) == pytest.approx(32, abs=1)
