"""Bins are made a chunk at a time; nobody can tell, except by the memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.functional import _chunks
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByCluster, ByColumn, ByLabel, ByLossQuantile, Product, Shuffled, Single

PARTITIONS = {
    "single": Single(),
    "label": ByLabel(),
    "strings": ByColumn("genre"),
    "loss quantile": ByLossQuantile(4),
    "product": Product([ByLabel(), ByLossQuantile(3), ByColumn("genre")]),
    "product without small bins": Product([ByLabel(), ByLossQuantile(3)], min_bin_size=4),
    "shuffled": Shuffled(ByLossQuantile(4)),
    "cluster": ByCluster(3),
}


def ledger(n, seed=0):
    rng = np.random.default_rng(seed)
    return Ledger.from_arrays(
        correct=np.arange(n) % 8 != 3,
        loss=rng.choice([0.0, 0.5, 1.0, rng.random()], n),
        label=rng.integers(-2, 3, n),
        genre=rng.choice(["", "tv", "law"], n),
        features=rng.random((n, 2), dtype=np.float32),
    )


@pytest.mark.parametrize("name", PARTITIONS)
@given(n=st.integers(8, 40), size=st.integers(1, 9), seed=st.integers(0, 9))
def test_bins_do_not_depend_on_the_chunks(name, n, size, seed):
    made = ledger(n, seed)
    expected = PARTITIONS[name].bins(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chunks, "CHUNK", size)
        patch.setattr("lightning_mixcd.partitions.by_cluster.CHUNK_NUMBERS", 2 * size)
        assert np.array_equal(PARTITIONS[name].bins(made), expected)


@pytest.mark.parametrize("name", PARTITIONS)
def test_a_sample_takes_five_bytes_at_most(name, monkeypatch):
    # Else what a chunk or a fit takes would count here, and drown in a pool that is large.
    monkeypatch.setattr(_chunks, "CHUNK", 1 << 12)
    monkeypatch.setattr("lightning_mixcd.partitions.by_cluster.CHUNK_NUMBERS", 1 << 14)
    monkeypatch.setattr("lightning_mixcd.partitions.by_cluster.FITTED_ROWS", 1000)
    made = ledger(400_000)
    tracemalloc.start()
    PARTITIONS[name].bins(made)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 5 * made.size
