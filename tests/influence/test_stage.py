from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils.data import Dataset, TensorDataset

from lightning_mixcd import Pool
from lightning_mixcd.influence import Curvature, Stage
from tests.influence.pipeline import Net, optimum, rows, stages
from tests.toys import Toy, pool


def test_losses_are_read_of_the_training_step():
    module = Toy().train()
    x, y = pool().tensors
    truth = cross_entropy(module.net(x[:, :-1]), y)
    truth.backward()
    curvature = Curvature(
        Stage(module, pool(), batch_size=7), [name for name, _ in module.named_parameters()]
    )
    slope = curvature.gradient()
    torch.testing.assert_close(slope, torch.cat([p.grad.flatten() for p in module.parameters()]))
    torch.testing.assert_close(curvature.stage.mean_loss(), truth.detach())


def test_losses_are_as_exact_as_the_model():
    module, (x, y) = Toy().double(), pool().tensors
    found = Stage(module, TensorDataset(x.double(), y)).mean_loss()
    torch.testing.assert_close(
        found, cross_entropy(module.net(x[:, :-1].double()), y).detach(), rtol=1e-12, atol=0
    )


class Halves(Toy):
    """Changes the tensors of its batch."""

    def features_and_labels(self, batch):
        batch[0][:, :-1].mul_(0.5)
        return batch


class Replaces(Toy):
    """Changes its batch."""

    def features_and_labels(self, batch):
        batch[0] = batch[0] * 0.5
        return batch


@pytest.mark.parametrize("kind", [Halves, Replaces])
def test_training_step_may_write_into_its_batch(kind):
    x, y = pool().tensors
    names = [name for name, _ in Toy().named_parameters()]
    found, truth = (
        Curvature(Stage(module, data), names)
        for module, data in ((kind(), pool()), (Toy(), TensorDataset(x * 0.5, y)))
    )
    torch.testing.assert_close(found.gradient(), truth.gradient())
    torch.testing.assert_close(found.matrix(), truth.matrix())


def test_pool_brings_its_own_collation():
    def doubled(samples):
        x, y = torch.utils.data.default_collate(samples)
        return 2 * x, y

    base, _ = stages(None)
    given = Stage(base.module, Pool(base.data, collate_fn=doubled), rows)
    x, y = base.data.tensors
    torch.testing.assert_close(
        given.mean_loss(), Stage(base.module, TensorDataset(2 * x, y), rows).mean_loss()
    )


def test_global_chance_is_left_alone():
    base, _ = stages(None)
    before = torch.get_rng_state()
    base.mean_loss()
    assert torch.equal(torch.get_rng_state(), before)


def test_chance_in_the_samples_is_the_same_in_each_pass():
    base, _ = stages(None)

    class Noisy(Dataset):
        def __len__(self):
            return len(base.data)

        def __getitem__(self, index):
            x, y = base.data[index]
            return x + torch.randn_like(x), y

    noisy, before = replace(base, data=Noisy()), torch.get_rng_state()
    assert noisy.mean_loss() == noisy.mean_loss() != base.mean_loss()
    assert torch.equal(torch.get_rng_state(), before)


def test_attention_has_a_second_derivative():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((4, 4), 0.1))

        def forward(self, x):
            return scaled_dot_product_attention(x @ self.weight, x, x).sum(1)

    x = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0))
    stage = Stage(Attention(), TensorDataset(x, torch.arange(6) % 4), rows)
    curvature = Curvature(stage, ["weight"])
    hessian = curvature.matrix()
    assert hessian.isfinite().all()
    torch.testing.assert_close(hessian[:, 2], curvature.product(torch.eye(16)[2]))


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_hessian_is_the_derivative_of_the_gradient(shift):
    base, _ = stages(None)
    names = ["head.weight", "embedding.bias"]
    curvature = Curvature(base, names, shift={"head.weight": shift})
    point, found = optimum(None)[0], curvature.matrix()

    def slope(place, by):
        moved = Net(point, 2)
        parameter = moved.get_parameter(names[place])
        with torch.no_grad():
            parameter.view(-1)[1] += by
        return Curvature(Stage(moved, base.data, rows), names).gradient()

    for place, column in ((0, 1), (1, 5)):
        change = (slope(place, 1e-5) - slope(place, -1e-5)) / 2e-5
        change[column] += base.weight_decay + (shift if place == 0 else 0.0)
        torch.testing.assert_close(found[:, column], change, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found, torch.stack([curvature.product(row) for row in torch.eye(6).double()]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_decay": -1.0}, r"`weight_decay` must be in \[0, inf\), got -1.0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Stage(nn.Linear(2, 2), pool(), **settings)


def test_frozen_model_is_refused():
    with pytest.raises(ValueError, match="`module` must have parameters that require gradients"):
        Stage(nn.Linear(2, 2).requires_grad_(False), pool())
