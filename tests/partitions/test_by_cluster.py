"""Bins of samples that look alike."""

import sys

import numpy as np
import pytest

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByCluster


def ledger(features, name="features"):
    n = len(features)
    return Ledger.from_arrays(correct=[True] * n, loss=[0.1] * n, **{name: features})


def planted(n=120, k=4, dtype=np.float32):
    """Points about the corners of a square, far from each other."""
    truth = np.arange(n) % k
    corners = 20.0 * np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    return truth, (corners[truth] + np.random.default_rng(0).normal(size=(n, 2))).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_planted_clusters_are_found(dtype):
    truth, features = planted(dtype=dtype)
    bins = ByCluster(4).bins(ledger(features))
    pairs = set(zip(truth.tolist(), bins.tolist(), strict=True))
    assert len(pairs) == len({bin_ for _, bin_ in pairs}) == 4


def test_a_sample_from_all_over_a_large_pool_finds_them_too(monkeypatch):
    monkeypatch.setattr("lightning_mixcd.partitions.by_cluster.FITTED_ROWS", 60)
    monkeypatch.setattr("lightning_mixcd.partitions.by_cluster.FITTED_ROWS_PER_BIN", 1)
    truth, features = planted(n=1000)
    by_cluster = np.argsort(truth)
    bins = ByCluster(4).bins(ledger(features[by_cluster]))
    pairs = set(zip(truth[by_cluster].tolist(), bins.tolist(), strict=True))
    assert len(pairs) == len({bin_ for _, bin_ in pairs}) == 4


def test_any_column_and_seed_will_do():
    _, features = planted()
    a, b = (ByCluster(4, column="x", seed=seed).bins(ledger(features, "x")) for seed in (1, 1))
    assert np.array_equal(a, b)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**70])
def test_whole_numbers_of_any_size_are_seeds(seed):
    assert ByCluster(4, seed=seed).bins(ledger(planted()[1])).max() == 3


def test_fewer_points_than_clusters_in_the_features_leave_no_empty_bin():
    features = np.repeat([[0.0, 0.0], [9.0, 9.0]], 10, axis=0)
    assert 1 < len(np.unique(ByCluster(5).bins(ledger(features)))) <= 5


@pytest.mark.parametrize("features", [[1.0, 2.0], [[1, 2], [3, 4]], [["a"], ["b"]]])
def test_what_is_no_feature_is_refused(features):
    message = r"`column` must name features of shape \(N, d\), but 'features' has dtype .* Use `ByColumn`"
    with pytest.raises(ValueError, match=message):
        ByCluster(2).bins(ledger(features))


def test_more_clusters_than_samples_are_refused():
    with pytest.raises(ValueError, match=r"`n_bins` \(3\) must be at most the pool's size \(2\)\. Lower it"):
        ByCluster(3).bins(ledger([[0.0], [1.0]]))


def test_no_clusters_are_refused():
    with pytest.raises(ValueError, match=r"`n_bins` must be at least 1, got 0"):
        ByCluster(0)


def test_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    message = r"`ByCluster` needs scikit-learn\. Install it with `pip install 'lightning-mixcd\[demo\]'`"
    with pytest.raises(ImportError, match=message):
        ByCluster(2).bins(ledger([[0.0], [1.0]]))
