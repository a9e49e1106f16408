"""Gaussians of features, and the weight that follows from them."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import oas
from torch.distributions import MultivariateNormal

from lightning_mixcd.adapters._diki_gate import RIDGE, calibrated_weight, fit_gaussian, gate_weight


def features(n, width, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, width, generator=generator) @ torch.randn(width, width, generator=generator)
    return torch.nn.functional.normalize(mixed + 1, dim=1)


def shrunk(x):
    """Covariance as scikit-learn shrinks it, but from the unbiased one."""
    width = x.shape[1]
    covariance = np.cov(x.double().numpy().T)
    _, share = oas(x.double().numpy())
    return (1 - share) * covariance + share * np.trace(covariance) / width * np.eye(width)


def test_density_is_that_of_scipy_and_torch():
    tasks = [features(200, 5, seed=seed) for seed in range(3)]
    one, two, three = map(fit_gaussian, tasks)
    gaussians = one + two + three
    queries = features(7, 5, seed=9)
    found = gaussians.log_density(queries)
    assert found.shape == (7, 3)
    for task, x in enumerate(tasks):
        covariance = np.cov(x.double().numpy().T) + RIDGE * np.eye(5)
        expected = multivariate_normal(x.double().mean(0), covariance).logpdf(queries)
        np.testing.assert_allclose(found[:, task], expected, rtol=1e-4)
        normal = MultivariateNormal(x.mean(0), torch.from_numpy(covariance).float())
        torch.testing.assert_close(found[:, task], normal.log_prob(queries), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("n", "shrinks"), [(4, True), (12, True), (13, False), (60, False)])
def test_covariance_is_shrunk_where_samples_are_no_more_than_features(n, shrinks):
    x = features(n, 12)
    found = fit_gaussian(x)
    mean, factor = found.means[0], found.factors[0]
    plain = np.cov(x.double().numpy().T)
    expected = (shrunk(x) if shrinks else plain) + RIDGE * np.eye(12)
    np.testing.assert_allclose(factor @ factor.T, expected, atol=1e-6)
    torch.testing.assert_close(mean, x.mean(0))


def test_few_samples_give_a_density_that_is_worth_something_elsewhere():
    # Without shrinkage, samples of the same task that were not fitted would be as unlikely as any other.
    held_out, other = features(40, 30, seed=0)[20:], torch.nn.functional.normalize(torch.randn(20, 30), dim=1)
    gaussians = fit_gaussian(features(40, 30, seed=0)[:20])
    assert gaussians.log_density(held_out).mean() > gaussians.log_density(other).mean()
    assert gate_weight(gaussians.log_density(held_out), 30).mean() > 0.3


@pytest.mark.parametrize("n", [2, 3])
def test_constant_features_have_a_density(n):
    found = fit_gaussian(torch.full((n, 4), 0.5))
    torch.testing.assert_close(found.factors[0], math.sqrt(RIDGE) * torch.eye(4))
    density = found.log_density(found.means)
    assert density.isfinite().all()
    assert calibrated_weight(density[0], found.marks).isfinite().all()


def test_weight_is_the_sigmoid_of_the_density_per_feature():
    density = torch.tensor([-1e9, -50.0, 0.0, 10.0, 35.0])
    expected = [1 / (1 + math.exp(min(-(float(x) / 10 - 1), 700))) for x in density]
    torch.testing.assert_close(gate_weight(density, 10), torch.tensor(expected))
    assert gate_weight(density, 10)[0] == 0


def test_calibrated_weight_goes_by_the_tasks_own_samples():
    x = features(200, 5)
    found = fit_gaussian(x)
    density = found.log_density(x)[:, 0]
    weight = calibrated_weight(density, found.marks.expand(200, 2))
    torch.testing.assert_close(
        weight.quantile(torch.tensor([0.05, 0.5])), torch.tensor([0.5, 0.95]), atol=2e-3, rtol=0
    )
    # In order of the density, and closed far away.
    assert (weight[density.argsort()].diff() >= 0).all()
    assert calibrated_weight(found.log_density(x - 100)[:, 0], found.marks.expand(200, 2)).max() == 0


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.ones(1, 3), r"at least 2 samples for a covariance, got 1\. Give more"),
        (torch.tensor([[1.0], [math.nan]]), r"must be finite, got others\. Look for samples"),
    ],
)
def test_bad_features_are_refused(x, match):
    with pytest.raises(ValueError, match=match):
        fit_gaussian(x)
