"""Shuffled orders of bins: without replacement, fair, small, and at a cost that the pool does not raise."""

import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_mixcd.functional import _chunks
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByLabel, ByLossQuantile, Product
from lightning_mixcd.strategies import ClassBalanced, MixCD, Uniform, UniformCorrect
from lightning_mixcd.strategies._binned import BLOCK, NEVER, Shuffles
from tests.oracles.chance import fits
from tests.strategies.drawing import counts, draws, labelled, started


class TestShuffles:
    @given(st.lists(st.sampled_from([NEVER, 0, 1, 2]), min_size=1, max_size=60), st.integers(0, 99))
    def test_each_pass_visits_every_member_once(self, bins, seed):
        shuffles = Shuffles(np.array(bins), 3, seed=seed)
        for bin_ in range(3):
            members = [i for i, b in enumerate(bins) if b == bin_]
            assert shuffles.sizes[bin_] == len(members)
            for _ in range(3 if members else 0):
                assert sorted(shuffles.take(bin_, 1)[0] for _ in members) == members

    def test_passes_longer_than_a_block_visit_every_member_once(self):
        size = 2 * BLOCK + 300
        shuffles = Shuffles(np.zeros(size, dtype=np.int64), 1, seed=0)
        for _ in range(2):
            visited = shuffles.take(0, 1500) + shuffles.take(0, size - 1500)
            assert sorted(visited) == list(range(size))

    @given(st.integers(1, 8), st.data())
    def test_no_sample_twice_in_a_draw_that_crosses_passes(self, size, data):
        shuffles = Shuffles(np.zeros(size, dtype=np.int64), 1, seed=data.draw(st.integers(0, 9)))
        for _ in range(12):
            n = data.draw(st.integers(1, size))
            taken = shuffles.take(0, n)
            assert len(set(taken)) == len(taken) == n

    @given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.data())
    def test_a_round_is_its_draws_one_after_the_other(self, sizes, data):
        members = np.repeat(np.arange(len(sizes)), sizes)
        at_once, one_by_one = (Shuffles(members, len(sizes), seed=0) for _ in range(2))
        for _ in range(4):
            n = data.draw(st.integers(1, len(members)))
            rows = np.array([data.draw(st.permutations(members.tolist()))[:n] for _ in range(3)])
            found = at_once.fill(rows)
            assert members[found].tolist() == rows.tolist()
            for row, draw in zip(rows, found, strict=True):
                for bin_ in set(row.tolist()):
                    mine = (row == bin_).nonzero()[0]
                    assert draw[mine].tolist() == one_by_one.take(bin_, len(mine))
            assert all(len(set(draw)) == n for draw in found.tolist())

    @pytest.mark.parametrize(("size", "n"), [(5, 3), (7, 4), (3, 2), (4, 4)])
    def test_crossing_passes_favours_nobody(self, size, n):
        shuffles = Shuffles(np.zeros(size, dtype=np.int64), 1, seed=1)
        taken = [i for _ in range(1500) for i in shuffles.take(0, n)]
        assert fits(np.bincount(taken, minlength=size))

    def test_passes_and_bins_and_seeds_have_orders_of_their_own(self):
        def order(seed, bin_):
            shuffles = Shuffles(np.repeat([0, 1], 50), 2, seed=seed)
            return [tuple(i - 50 * bin_ for i in shuffles.take(bin_, 50)) for _ in range(3)]

        assert order(0, 0) == order(0, 0)
        assert len({*order(0, 0), *order(0, 1), *order(1, 0)}) == 9

    def test_a_position_is_all_that_there_is_to_remember(self):
        bins = np.arange(3000) % 2
        read, resumed = (Shuffles(bins, 2, seed=4) for _ in range(2))
        for n in (7, 1400, 300):
            read.take(0, n)
        resumed.position = read.position.copy()
        assert resumed.take(0, 100) == read.take(0, 100)

    @pytest.mark.parametrize("n_bins", [10, 300, 1000])
    def test_at_most_eight_bytes_per_sample(self, n_bins):
        n = 10**6
        bins = np.arange(n) % n_bins
        tracemalloc.start()
        shuffles = Shuffles(bins, n_bins, seed=0)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert shuffles.bins.nbytes <= 2 * n
        assert 4 * n < used <= 8 * n

    @given(st.lists(st.sampled_from([NEVER, 0, 1, 2]), min_size=1, max_size=40), st.integers(1, 9))
    def test_chunks_of_the_set_up_do_not_show(self, bins, size):
        whole = Shuffles(np.array(bins), 3, seed=0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_chunks, "CHUNK", size)
            chunked = Shuffles(np.array(bins), 3, seed=0)
        for bin_, members in enumerate(whole.sizes.tolist()):
            assert chunked.take(bin_, members) == whole.take(bin_, members)

    @pytest.mark.parametrize("n_bins", [1, 127, 128, 129, 32768, 32769])
    def test_small_integers_hold_every_bin(self, n_bins):
        bins = np.append(np.arange(n_bins), NEVER)
        shuffles = Shuffles(bins, n_bins, seed=0)
        assert np.array_equal(shuffles.bins, bins)
        assert shuffles.take(n_bins - 1, 1) == [n_bins - 1]


SET_UPS = {
    "uniform": Uniform,
    "uniform over correct": UniformCorrect,
    "class balanced": ClassBalanced,
    "mix-cd": MixCD,
    "mix-cd with wrong samples": lambda: MixCD(partition=ByLabel(), wrong_share=0.2),
    "mix-cd over a product": lambda: MixCD(partition=Product([ByLabel(), ByLossQuantile()])),
}


@pytest.mark.parametrize("name", SET_UPS)
def test_set_up_takes_at_most_six_bytes_per_sample_at_its_peak(name, monkeypatch):
    n, rng = 10**6, np.random.default_rng(0)
    # Else what a chunk takes would count here, and drown in a pool that is large.
    monkeypatch.setattr(_chunks, "CHUNK", 1 << 12)
    ledger = Ledger.from_arrays(
        correct=rng.random(n) < 0.9, loss=rng.random(n), label=rng.integers(8, size=n)
    )
    tracemalloc.start()
    started(SET_UPS[name](), ledger)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 6 * n


@pytest.mark.parametrize("n_labels", [126, 127, 128])
def test_one_bin_more_for_wrong_samples_fits(n_labels):
    strategy = started(MixCD(partition=ByLabel(), wrong_share=0.5), labelled(*[1] * n_labels, wrong=1))
    assert strategy.bins_of(torch.arange(n_labels + 1)).tolist() == list(range(n_labels + 1))


class TestDraws:
    def test_two_bins_of_one_are_equally_likely(self):
        ledger = labelled(1, 1)
        assert fits(counts(started(MixCD(partition=ByLabel()), ledger), 2, 1, 400))
        assert all(
            sorted(draw) == [0, 1] for draw in draws(started(MixCD(partition=ByLabel()), ledger), 2, 20)
        )

    def test_any_part_of_a_draw_is_fair(self):
        # The first row of a draw of four must not tell the bins apart.
        strategy = started(MixCD(partition=ByLabel()), labelled(40, 40))
        assert fits(np.bincount([draw[0] // 40 for draw in draws(strategy, 4, 600)]))

    def test_checkpoint_of_other_bins_is_refused(self):
        strategy = started(MixCD(partition=ByLabel()), labelled(3, 3, 3))
        with pytest.raises(ValueError, match=r"made with 2 bins, this run has 3\. Resume with the same pool"):
            strategy.load_draw_state(torch.zeros(2, dtype=torch.int64))


class Sizes(TorchDispatchMode):
    """Records how many elements torch operations give."""

    def __init__(self):
        super().__init__()
        self.numels = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numels += [out.numel()] if isinstance(out, torch.Tensor) else []
        return out


def effort(make, n):
    """Calls, tensor elements and bytes that thirty draws need from a pool of `n`."""
    ledger = Ledger.from_arrays(correct=np.ones(n, dtype=bool), loss=np.zeros(n), label=np.arange(n) % 8)
    strategy = started(make(), ledger)
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event in ("call", "c_call")

    tracemalloc.start()
    with Sizes() as sizes:
        sys.setprofile(count)
        for draw in draws(strategy, 32, 30):
            strategy.context(torch.tensor(draw))
        sys.setprofile(None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return calls, sizes.numels, peak


@pytest.mark.parametrize("make", [Uniform, lambda: MixCD(partition=ByLabel())])
def test_draws_from_a_large_pool_cost_what_draws_from_a_small_one_cost(make):
    # Powers of two, because the shuffle walks on where a size lies between two of them.
    effort(make, 2**14)
    small, large = effort(make, 2**14), effort(make, 2**19)
    assert large[0] == small[0]
    assert large[1] == small[1]
    assert max(large[1]) <= BLOCK
    assert large[2] < 1.2 * small[2] < 10**6
