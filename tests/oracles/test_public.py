"""Formulas against well-known implementations, where these are installed: quadprog, captum, pyDVL."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_mixcd.functional.knn_shapley import knn_shapley
from lightning_mixcd.functional.projection import project_to_cone
from lightning_mixcd.strategies._last_layer import LastLayerGradients


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(5))
def test_projection_is_that_of_quadprog(seed, margin):
    quadprog = pytest.importorskip("quadprog")
    gradient, references = normal(10, seed=seed), normal(4, 10, seed=100 + seed)
    g, of = gradient.double().numpy(), references.double().numpy()
    # As in the authors' own code: the dual, with v >= margin.
    v = quadprog.solve_qp(of @ of.T, -of @ g, np.eye(4), np.full(4, margin))[0]
    expected = g + v @ of if (of @ g < 0).any() else g
    np.testing.assert_allclose(project_to_cone(gradient, references, margin), expected, atol=1e-5)


def test_gradient_products_are_those_of_captum():
    influence = pytest.importorskip("captum.influence")
    x, label = normal(12, 4, seed=1), torch.arange(12) % 3
    with torch.random.fork_rng():
        net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3, bias=False))

    def gradients(rows):
        features = net[:-1](x[rows])
        logits = net[-1](features)
        return LastLayerGradients.of(logits, label[rows], features, bias=False)

    trac_in = influence.TracInCPFast(
        net,
        net[-1],
        torch.utils.data.TensorDataset(x[5:], label[5:]),
        checkpoints=["only"],
        checkpoints_load_func=lambda _net, _path: 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=4,
    )
    expected = trac_in.influence((x[:5], label[:5]))
    found = gradients(slice(0, 5)).products(gradients(slice(5, None)))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("k", [1, 3])
def test_shapley_values_are_those_of_pydvl(k):
    valuation = pytest.importorskip("pydvl.valuation")
    neighbors = pytest.importorskip("sklearn.neighbors")
    x, label = normal(20, 4, seed=2), torch.arange(20) % 3
    pool, points = slice(0, 15), slice(15, None)
    data, test = (valuation.Dataset(x[rows].numpy(), label[rows].numpy()) for rows in (pool, points))
    method = valuation.KNNShapleyValuation(neighbors.KNeighborsClassifier(k), test, progress=False)
    expected = method.fit(data).result.values
    found = knn_shapley(torch.cdist(x[points], x[pool]), label[points, None] == label[pool], k)
    np.testing.assert_allclose(found.mean(dim=0), expected, atol=1e-6)
