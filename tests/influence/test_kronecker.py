import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lightning_mixcd.influence import Curvature, Exact, KroneckerFactored, Stage, influence
from tests.influence.pipeline import rows, stages
from tests.toys import Toy, pool

pytest.importorskip("kronfluence")


def squares(module, batch):
    return (module(batch[0]) - batch[1])[:, 0] ** 2 / 2


def drawn(module, batch):
    """Squares for targets one standard deviation off the prediction: their Fisher matrix is the Hessian."""
    guess = module(batch[0])
    return squares(module, (batch[0], guess.detach() + 1))


def regression(seed, kind=nn.Linear):
    """One layer with one output, whose factored Hessian lacks nothing."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(50, 4, generator=generator) @ torch.randn(4, 4, generator=generator)
    torch.manual_seed(seed)
    if kind is nn.Linear:
        module = nn.Sequential(nn.Linear(4, 1))
    else:
        module, x = nn.Sequential(nn.Conv2d(1, 1, 2), nn.Flatten()), x.view(50, 1, 2, 2)
    data = TensorDataset(x, torch.randn(50, 1, generator=generator))
    return Stage(module, data, squares, weight_decay=0.1, batch_size=16)


@pytest.mark.parametrize("kind", [nn.Linear, nn.Conv2d])
def test_layer_is_solved_as_the_whole_hessian(kind):
    stage = regression(0, kind)
    curvature = Curvature(stage, list(stage.parameters()), shift={"0.weight": 0.2, "0.bias": 0.2})
    vector = torch.arange(5.0) - 1
    found = KroneckerFactored(sampled=drawn, progress=False).solve(curvature, vector)
    torch.testing.assert_close(found, Exact().solve(curvature, vector), rtol=1e-3, atol=1e-4)


def test_scores_are_those_of_the_whole_hessian():
    base, new = regression(0), regression(1)
    found, truth = (
        influence(base, new, new.data, alpha=0.5, solver=solver)
        for solver in (KroneckerFactored(sampled=drawn, progress=False), Exact())
    )
    np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-5)


def test_factors_are_not_used_up():
    from lightning_mixcd.influence import _ekfac

    factors = _ekfac.fit(regression(0), ["0"], sampled=drawn, progress=False)
    once, twice = (_ekfac.solve_block(factors, "0", torch.ones(1, 5), damping=1.0) for _ in "ab")
    torch.testing.assert_close(twice, once, rtol=0.0, atol=0.0)


def test_without_drawn_labels_errors_count():
    # With every error 1 the data's own labels give the same matrix as drawn ones.
    stage = regression(0)
    x, _ = stage.data.tensors
    exact = Stage(stage.module, TensorDataset(x, (stage.module(x) + 1).detach()), squares, weight_decay=0.1)
    curvature = Curvature(exact, list(exact.parameters()))
    found = KroneckerFactored(progress=False).solve(curvature, torch.ones(5))
    torch.testing.assert_close(found, Exact().solve(curvature, torch.ones(5)), rtol=1e-3, atol=1e-4)


def test_module_of_a_trainer_is_left_as_it_was():
    module = Toy().train()
    curvature = Curvature(Stage(module, pool()), [name for name, _ in module.named_parameters()])
    before = torch.get_rng_state()
    found = KroneckerFactored(damping=1e-3, progress=False).solve(curvature, torch.ones(curvature.size))
    assert found.isfinite().all()
    assert found.any()
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(module.net[0], nn.Linear)
    assert module.net.training
    assert all(p.requires_grad and p.grad is None for p in module.parameters())


def test_part_of_a_layer_is_refused():
    base, _ = stages(None)
    with pytest.raises(ValueError, match=r"whole layers, but of 'head' only \['head\.weight'\]"):
        KroneckerFactored().solve(Curvature(base, ["head.weight"]), torch.zeros(4).double())


def test_other_layers_are_refused():
    stage = Stage(nn.Sequential(nn.LayerNorm(4)), pool(), rows)
    with pytest.raises(ValueError, match=r"inside the module, got \['0\.weight'\]"):
        KroneckerFactored().solve(Curvature(stage, ["0.weight"]), torch.zeros(4))


def test_damping_must_be_positive():
    with pytest.raises(ValueError, match=r"`damping` must be in \(0, inf\), got 0\.0"):
        KroneckerFactored(damping=0.0)
