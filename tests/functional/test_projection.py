"""Projected gradients, against a generic solver and by their laws."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lightning_mixcd.functional import project, project_to_cone


def vectors(n, size, seed):
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(20))
def test_projection_does_not_point_against_the_reference(seed):
    gradient, reference = vectors(2, 5, seed)
    found = project(gradient, reference)
    if gradient @ reference >= 0:
        assert torch.equal(found, gradient)
    else:
        assert abs(float(found @ reference)) < 1e-12
        # The nearest such vector differs along the reference alone.
        torch.testing.assert_close(
            (found - gradient) / reference, ((found - gradient) / reference)[:1].expand(5)
        )


@pytest.mark.parametrize("function", [project, lambda g, r: project_to_cone(g, r[None])])
def test_zero_reference_changes_nothing(function):
    gradient = torch.tensor([1.0, -2.0])
    assert torch.equal(function(gradient, torch.zeros(2)), gradient)


def test_nothing_of_a_zero_gradient():
    assert torch.equal(project(torch.zeros(3), torch.ones(3)), torch.zeros(3))


def slow_cone(gradient, references, margin):
    """The dual problem as it is written, by a solver that knows nothing of it."""
    g, big = gradient.numpy(), references.numpy()
    if (big @ g >= 0).all():
        return g
    found = minimize(
        lambda v: 0.5 * v @ big @ big.T @ v + g @ big.T @ v,
        x0=np.full(len(big), margin + 1.0),
        jac=lambda v: big @ big.T @ v + big @ g,
        bounds=[(margin, None)] * len(big),
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 1000},
    )
    assert found.success
    return g + big.T @ found.x


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize(("n", "size"), [(1, 6), (2, 6), (4, 6), (8, 6), (5, 2)])
@pytest.mark.parametrize("seed", range(5))
def test_cone_as_a_generic_solver(seed, n, size, margin):
    gradient, *references = vectors(n + 1, size, seed)
    references = torch.stack(references)
    found = project_to_cone(gradient, references, margin)
    np.testing.assert_allclose(found, slow_cone(gradient, references, margin), atol=1e-5)
    assert float((references @ found).min()) > -1e-9


def test_one_reference_without_margin_is_the_plain_projection():
    for seed in range(10):
        gradient, reference = vectors(2, 5, seed)
        torch.testing.assert_close(
            project_to_cone(gradient, reference[None]), project(gradient, reference), rtol=1e-12, atol=1e-12
        )


def test_a_reference_given_twice_counts_once():
    gradient, reference, other = vectors(3, 5, 1).float()
    once = project_to_cone(gradient, torch.stack([reference, other]))
    twice = project_to_cone(gradient, torch.stack([reference, other, reference, 2 * other]))
    torch.testing.assert_close(once, twice)


def test_opposite_references_leave_what_is_orthogonal_to_both():
    gradient = torch.tensor([1.0, 2.0, 3.0])
    references = torch.tensor([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    torch.testing.assert_close(project_to_cone(gradient, references), torch.tensor([1.0, 0.0, 3.0]))


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_no_scale_is_special(scale):
    gradient, *references = vectors(4, 5, 3).float()
    references = torch.stack(references)
    torch.testing.assert_close(
        project_to_cone(scale * gradient, scale * references), scale * project_to_cone(gradient, references)
    )


def test_scipy_missing_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r"`project_to_cone` needs SciPy.*lightning-mixcd\[report\]"):
        project_to_cone(torch.ones(2), torch.ones(1, 2))
