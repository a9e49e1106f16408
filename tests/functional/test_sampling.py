"""Quotas and shuffles: exact laws by enumeration, fair chances by chi-square at fixed keys."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from lightning_mixcd.functional.sampling import choose_bins, choose_weighted, permute, stream_key
from tests.oracles.chance import fits


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def counts(probabilities, capacities, n, g, n_draws=1):
    """Samples per bin of each draw, (D, K)."""
    bins = choose_bins(probabilities, capacities, n, n_draws=n_draws, generator=g)
    assert bins.shape == (n_draws, n)
    assert bins.dtype == torch.int64
    return torch.stack([draw.bincount(minlength=len(capacities)) for draw in bins])


def quotas(probabilities, capacities, n, seed=0):
    q = torch.tensor(probabilities, dtype=torch.float64)
    return counts(q, torch.tensor(capacities), n, generator(seed))[0].tolist()


class TestChooseBins:
    @given(
        rows=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9)), min_size=1, max_size=6),
        share=st.floats(0, 1),
        seed=st.integers(0, 99),
    )
    def test_whole_budget_within_capacities(self, rows, share, seed):
        probabilities, capacities = (list(column) for column in zip(*rows, strict=True))
        n = int(share * sum(capacities))
        assume(n > 0)
        q, most = torch.tensor(probabilities, dtype=torch.float64), torch.tensor(capacities)
        for found in counts(q, most, n, generator(seed), n_draws=3).tolist():
            assert sum(found) == n
            assert all(0 <= quota <= capacity for quota, capacity in zip(found, capacities, strict=True))

    def test_bins_come_up_as_often_as_they_should(self):
        q, n, draws = torch.tensor([0.05, 0.15, 0.5, 0.3, 0.0]), 7, 3000
        g = generator(1)
        total = counts(q, torch.full((5,), 100), n, g, n_draws=draws).sum(dim=0)
        assert total[4] == 0
        assert fits(total[:4], q[:4])

    def test_samples_fall_independently(self):
        # Two samples into two even bins: 0, 1 or 2 in the first, as 1 : 2 : 1.
        g = generator(2)
        even, room = torch.ones(2), torch.tensor([9, 9])
        in_first = counts(even, room, 2, g, n_draws=4000)[:, 0]
        assert fits(in_first.bincount().numpy(), [1, 2, 1])

    def test_what_a_bin_cannot_hold_goes_to_the_others_in_proportion(self):
        g = generator(3)
        q, room = torch.tensor([0.98, 0.005, 0.015]), torch.tensor([2, 1000, 1000])
        total = counts(q, room, 40, g, n_draws=200).sum(dim=0).tolist()
        assert total[0] == 400
        assert fits(total[1:], [1, 3])

    @pytest.mark.parametrize("room", [[50, 50], [3, 50]])
    def test_a_bin_is_as_likely_in_every_place_of_a_draw(self, room):
        bins = choose_bins(
            torch.tensor([0.7, 0.3]), torch.tensor(room), 6, n_draws=3000, generator=generator(4)
        )
        assert fits((bins == 0).sum(dim=0).numpy())

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

    @pytest.mark.parametrize("bits", [12, 13])
    def test_one_bit_of_the_place_changes_each_bit_of_the_value_half_of_the_time(self, bits):
        places = np.arange(2**bits)
        values = permute(places, 2**bits, 3)
        for flipped in range(bits):
            changed = values ^ values[places ^ (1 << flipped)]
            shares = [(changed >> bit & 1).mean() for bit in range(bits)]
            assert shares == pytest.approx([0.5] * bits, abs=0.06)

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


def test_weighted_choice_follows_the_law_of_one_after_the_other():
    weights = torch.tensor([1.0, 2.0, 4.0, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    chosen, times = choose_weighted(weights.expand(20_000, 4), 2, generator=generator)
    for first, second in itertools.permutations(range(4), 2):
        rest = weights.sum() - weights[first]
        expected = float(weights[first] / weights.sum() * weights[second] / rest)
        share = float(((chosen[:, 0] == first) & (chosen[:, 1] == second)).double().mean())
        assert share == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)
    assert (times.diff(dim=1) > 0).all()
    chance = -torch.expm1(-weights * times[:, -1:])
    counted = torch.zeros(20_000, 4, dtype=torch.float64).scatter(1, chosen, 1 / chance.gather(1, chosen))
    error = counted.std(0) / 20_000**0.5
    assert ((counted.mean(0) - 1).abs() < 4 * error).all()


def test_places_that_must_be_chosen_are():
    weights = torch.ones(50, 6, dtype=torch.float64).masked_fill(torch.arange(6) < 2, torch.inf)
    chosen, _ = choose_weighted(weights, 3, generator=torch.Generator().manual_seed(0))
    assert chosen[:, :2].sort(dim=1).values.tolist() == [[0, 1]] * 50
    assert {*chosen[:, 2].tolist()} == {2, 3, 4, 5}
    _, times = choose_weighted(weights, 6, generator=torch.Generator())
    assert times[:, -1].tolist() == [torch.inf] * 50
