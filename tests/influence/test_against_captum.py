"""One stage, against captum; runs where captum is installed."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lightning_mixcd.influence import Curvature, Exact, Stage, influence, score_pool

captum = pytest.importorskip("captum.influence")
pytestmark = pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
N = 20


@pytest.fixture
def stage():
    torch.manual_seed(0)
    # One output, so that no two eigenvalues of the Hessian are equal: captum does not separate those.
    data = TensorDataset(torch.randn(N, 3), torch.randn(N, 1))
    return Stage(nn.Linear(3, 1), data, lambda module, batch: (module(batch[0]) - batch[1])[:, 0] ** 2)


QUERIES = torch.eye(3), torch.tensor([[0.5], [-1.0], [2.0]])


def theirs(kind, stage, tmp_path, **settings):
    # A sequence, because captum does not run a model that is its own layer.
    model = nn.Sequential(stage.module)
    torch.save(model.state_dict(), tmp_path / "weights.pt")

    def load(model, path):
        model.load_state_dict(torch.load(path))
        return 1.0

    settings = {"loss_fn": nn.MSELoss(reduction="sum"), "batch_size": N, **settings}
    path = str(tmp_path / "weights.pt")
    paths = [path] if kind is captum.TracInCP else path
    explainer = kind(model, stage.data, paths, load, sample_wise_grads_per_batch=True, **settings)
    return explainer.influence(QUERIES).numpy()


def test_exact_scores_are_those_of_captum(stage, tmp_path):
    found = [influence(stage, stage, [query], solver=Exact()) for query in zip(*QUERIES, strict=True)]
    # Its Hessian is a sum over samples, and its scores are positive for what supports.
    truth = -N * theirs(captum.NaiveInfluenceFunction, stage, tmp_path, hessian_reg=0.0, projection_dim=4)
    np.testing.assert_allclose(found, truth, rtol=1e-3, atol=1e-4)


def test_products_of_gradients_are_those_of_captum(stage, tmp_path):
    found = []
    for query in zip(*QUERIES, strict=True):
        slope = Curvature(Stage(stage.module, [query], stage.losses), list(stage.parameters()))
        found.append(score_pool(stage, slope.named(slope.gradient()), progress=False))
    np.testing.assert_allclose(found, -theirs(captum.TracInCP, stage, tmp_path), rtol=1e-4, atol=1e-5)
