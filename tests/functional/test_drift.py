"""The regression on faded sums against a plain least-squares solver on all rows."""

import numpy as np
import pytest
import torch

from lightning_mixcd.functional.drift import (
    coordinates,
    corrected,
    diagonal_fit,
    feature_basis,
    moments,
    own_moments,
    ridge_fit,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain_ridge(z, y, ridge, weights=None):
    """Least squares, the prior as further rows, in float64."""
    weights = np.ones(len(z)) if weights is None else np.asarray(weights)
    root = np.sqrt(weights)[:, None]
    rows = np.concatenate([z.double().numpy() * root, np.sqrt(ridge) * np.eye(z.shape[1])])
    targets = np.concatenate([y.double().numpy() * root, np.zeros((z.shape[1], y.shape[1]))])
    return torch.from_numpy(np.linalg.lstsq(rows, targets, rcond=None)[0]).float()


@pytest.mark.parametrize("n", [0, 1, 3, 50])
@pytest.mark.parametrize("ridge", [0.1, 1.0, 10.0])
def test_ridge_is_least_squares_with_the_prior_as_rows(n, ridge):
    z, y = normal(n, 4), normal(n, 3, seed=1)
    assert torch.allclose(ridge_fit(moments(z, y), ridge), plain_ridge(z, y, ridge), atol=1e-4)


def test_moments_of_parts_add_up_and_corners_are_smaller_models():
    z, y = normal(40, 5), normal(40, 3, seed=1)
    parts = moments(z[:13], y[:13]) + moments(z[13:], y[13:])
    assert torch.allclose(parts, moments(z, y), atol=1e-4)
    corner = torch.cat([parts[:2, :2], parts[:2, 5:]], dim=1)
    assert torch.allclose(ridge_fit(corner, 1.0), plain_ridge(z[:, :2], y, 1.0), atol=1e-4)


def test_fading_sums_weigh_rows_by_their_age():
    kept, sums = 0.9, torch.zeros(4, 4 + 2)
    lessons = [(normal(3, 4, seed=i), normal(3, 2, seed=100 + i)) for i in range(12)]
    for z, y in lessons:
        sums = kept * sums + moments(z, y)
    weights = np.repeat(kept ** np.arange(11, -1, -1), 3)
    z, y = (torch.cat([lesson[side] for lesson in lessons]) for side in (0, 1))
    assert torch.allclose(ridge_fit(sums, 1.0), plain_ridge(z, y, 1.0, weights), atol=1e-4)


def test_each_output_by_itself():
    x, y = normal(30, 4) + 1, normal(30, 4, seed=1)
    found = diagonal_fit(own_moments(x, y), 0.5)
    for j in range(4):
        z = torch.stack([torch.ones(30), x[:, j]], dim=1)
        assert torch.allclose(found[:, j : j + 1], plain_ridge(z, y[:, j : j + 1], 0.5), atol=1e-4)
    assert not diagonal_fit(torch.zeros(5, 4), 1.0).any()


@pytest.mark.parametrize(("n", "d", "rank"), [(50, 6, 6), (50, 6, 2), (3, 6, 6), (50, 2, 64)])
def test_basis_is_that_of_principal_components(n, d, rank):
    features = normal(n, d) * torch.arange(1.0, d + 1) + 5
    basis = feature_basis(features, rank)
    centred = (features - features.mean(0)).double()
    variances = torch.linalg.svdvals(centred).square()
    directions = basis.directions.double()
    rank = min(rank, d)
    assert torch.allclose(directions @ directions.T, torch.eye(rank).double(), atol=1e-5)
    found = (centred @ directions.T).square().sum(0)
    wanted = torch.nn.functional.pad(variances, (0, d))[:rank]
    assert torch.allclose(found, wanted, atol=1e-3 * float(variances[0]))
    z = coordinates(features, basis)
    assert torch.equal(z[:, 0], torch.ones(n))
    assert torch.allclose(z[:, 1:].mean(0), torch.zeros(rank), atol=1e-5)
    if rank == d:
        assert z[:, 1:].square().mean() == pytest.approx(1, rel=1e-4)


def test_features_that_do_not_vary_have_a_basis_too():
    basis = feature_basis(torch.full((5, 3), 2.0), 3)
    assert not coordinates(torch.full((2, 3), 2.0), basis)[:, 1:].any()


def test_linear_drift_is_recovered_exactly():
    base = normal(200, 5)
    slope, shift = normal(5, 5, seed=2), normal(5, seed=3)
    drift = base @ slope + shift
    z = coordinates(base, feature_basis(base, 5))
    fit = ridge_fit(moments(z[:100], drift[:100]), 1e-4)
    assert torch.allclose(z[100:] @ fit, drift[100:], atol=1e-3)


@pytest.mark.parametrize("leading", [(), (3,)])
def test_correction_row_by_row(leading):
    base, fits = normal(7, 4) * 3 + 1, normal(*leading, 2 + 2, 4, seed=1)
    basis = feature_basis(normal(50, 4, seed=2) + 1, 2)
    found = corrected(base, basis, fits)
    assert found.shape == (*leading, 7, 4)
    for one, fit in zip(found.reshape(-1, 7, 4), fits.reshape(-1, 4, 4), strict=True):
        for row, x in zip(one, base, strict=True):
            own = (x - basis.mean) / basis.scale
            z = torch.cat([torch.ones(1), basis.directions @ own])
            assert torch.allclose(row, x + fit[0] * own + z @ fit[1:], atol=1e-4)
