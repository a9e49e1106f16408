import re

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import lsqr
from torch import nn

from lightning_mixcd.influence import ConjugateGradients, Curvature, Exact, Stage
from tests.influence.pipeline import stages


def problem():
    base, _ = stages(None)
    curvature = Curvature(base, list(base.parameters()))
    generator = torch.Generator().manual_seed(0)
    return curvature, torch.randn(curvature.size, generator=generator, dtype=torch.float64)


def test_exact_solves():
    curvature, vector = problem()
    torch.testing.assert_close(curvature.product(Exact().solve(curvature, vector)), vector)


@pytest.mark.parametrize(
    "solver",
    [
        Exact(damping=0.01),
        ConjugateGradients(damping=0.01, tolerance=1e-10, max_iterations=100, progress=False),
    ],
)
def test_damped_solution_is_that_of_least_squares(solver):
    curvature, vector = problem()
    truth = lsqr(curvature.matrix().numpy(), vector.numpy(), damp=0.1, atol=1e-14, btol=1e-14, iter_lim=500)[
        0
    ]
    np.testing.assert_allclose(solver.solve(curvature, vector).numpy(), truth, rtol=1e-5, atol=1e-7)


def test_flat_directions_stay_at_0():
    base, _ = stages(None, weight_decay=0.0)
    curvature = Curvature(base, ["head.bias"])  # a softmax does not see what is added to all logits
    solved = Exact().solve(curvature, torch.tensor([1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(curvature.product(solved), torch.tensor([1.0, -1.0], dtype=torch.float64))
    torch.testing.assert_close(solved.sum(), solved.new_zeros(()))


def test_nothing_asked_is_nothing_found():
    curvature, vector = problem()
    found = ConjugateGradients(progress=False).solve(curvature, torch.zeros_like(vector))
    assert torch.equal(found, torch.zeros_like(vector))


def test_unfinished_solution_warns_of_how_far_it_is():
    curvature, vector = problem()
    solver = ConjugateGradients(max_iterations=2, progress=False)
    with pytest.warns(UserWarning, match=r"stopped after 2 iterations at .* of the first gradient") as told:
        found = solver.solve(curvature, vector)
    reached = float(re.search(r"at (\S+) of", str(told[0].message))[1])
    slope = curvature.product(vector - curvature.product(found)) - solver.damping * found
    assert reached == pytest.approx(float(slope.norm() / curvature.product(vector).norm()), rel=0.06)


class Overflowing:
    """An operator on two numbers whose products are beyond all bounds after the third."""

    def __init__(self):
        self.products = 0

    def product(self, vector):
        self.products += 1
        return vector * torch.tensor([2.0, 3.0]) * (1.0 if self.products <= 3 else 1e200)


def test_what_overflows_ends_with_a_warning_at_the_best_point():
    # The first iteration takes three products.
    vector = torch.ones(2, dtype=torch.float64)
    found = []
    for iterations in (1, 100):
        solver = ConjugateGradients(max_iterations=iterations, progress=False)
        with pytest.warns(UserWarning, match=r"Conjugate gradients stopped after \d+ iterations at"):
            found.append(solver.solve(Overflowing(), vector))
    assert found[0].isfinite().all()
    assert torch.equal(*found)


def test_gradients_too_large_to_be_squared_are_refused():
    curvature, vector = problem()
    with pytest.raises(
        ValueError, match=r"squared norm of a gradient must be finite, got inf in torch\.float64"
    ):
        ConjugateGradients(progress=False).solve(curvature, 1e200 * vector)


def test_exact_refuses_half_precision():
    curvature = Curvature(Stage(nn.Linear(2, 2).bfloat16(), [0]), ["weight"])
    with pytest.raises(ValueError, match=r"`Exact` must have a model in float32 or float64, got torch\.bfl"):
        Exact().solve(curvature, torch.ones(4, dtype=torch.bfloat16))


def test_exact_refuses_large_models():
    curvature, vector = problem()
    with pytest.raises(ValueError, match=r"`Exact` takes at most 13 parameters .* got 14\. Use `Conj"):
        Exact(max_parameters=13).solve(curvature, vector)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Exact(damping=-1.0), r"`damping` must be in \[0, inf\), got -1.0"),
        (
            lambda: ConjugateGradients(damping=float("nan")),
            r"`damping` must be in \[0, inf\), got nan",
        ),
        (lambda: ConjugateGradients(tolerance=0.0), "`tolerance` must lie between 0 and 1, got 0.0"),
        (lambda: ConjugateGradients(max_iterations=0), "`max_iterations` must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
