from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from lightning_mixcd.errors import CaptureError
from lightning_mixcd.influence import (
    ConjugateGradients,
    Curvature,
    Exact,
    Stage,
    TwoStages,
    influence,
    score_pool,
)
from tests.influence.pipeline import (
    FINETUNE,
    N_NEW,
    N_OLD,
    PRETRAIN,
    QUERIES,
    QUERY_DATA,
    Net,
    derivative,
    optimum,
    rows,
    stages,
)


def scores(alpha, solver=None, queries=QUERY_DATA, **settings):
    return influence(
        *stages(alpha, **settings), queries, embedding="embedding", alpha=alpha, solver=solver or Exact()
    )


@pytest.mark.parametrize("alpha", [None, 0.05, 1.0])
def test_score_is_the_derivative_of_the_whole_pipeline(alpha):
    found = scores(alpha)
    truth = [derivative(raised, alpha) for raised in (0, 3, 7)]
    np.testing.assert_allclose(found[[0, 3, 7]], truth, rtol=1e-4)


def test_strong_proximity_is_a_fixed_embedding():
    # Decay would pull on an updated embedding, not on a fixed one.
    base, new = stages(None)
    fixed = influence(base, new, QUERY_DATA, embedding="embedding", solver=Exact())
    updated = influence(base, new, QUERY_DATA, embedding="embedding", alpha=1e6, solver=Exact())
    np.testing.assert_allclose(updated, fixed, rtol=1e-4)


def test_no_proximity_leaves_no_influence():
    np.testing.assert_allclose(
        influence(*stages(None), QUERY_DATA, embedding="embedding", alpha=1e-9, solver=Exact()),
        np.zeros(12),
        atol=1e-6,
    )


@pytest.mark.parametrize("alpha", [None, 1.0])
def test_conjugate_gradients_agree_with_the_whole_hessian(alpha):
    iterative = ConjugateGradients(damping=1e-3, tolerance=1e-10, max_iterations=500, progress=False)
    np.testing.assert_allclose(scores(alpha, iterative), scores(alpha, Exact(damping=1e-3)), rtol=1e-6)


def test_queries_count_by_their_mean():
    alone = [scores(None, queries=[QUERY_DATA[i]]) for i in range(4)]
    np.testing.assert_allclose(scores(None), np.mean(alone, axis=0), rtol=1e-9)


def test_batches_do_not_matter():
    np.testing.assert_allclose(scores(1.0, batch_size=100), scores(1.0), rtol=1e-9)


def test_one_stage_is_the_classical_influence_function():
    base, _ = optimum(None)
    stage = Stage(Net(base, N_OLD), TensorDataset(*PRETRAIN), rows, weight_decay=0.02)
    query = (QUERIES[0][:1], torch.tensor([1]))
    found = influence(stage, stage, TensorDataset(*query), solver=Exact())

    parameters = tuple(stage.module.parameters())
    split = [p.numel() for p in parameters]

    def loss(flat, data):
        parts = [part.view_as(p) for part, p in zip(flat.split(split), parameters, strict=True)]
        w, b, v, c = parts
        return nn.functional.cross_entropy(torch.tanh(data[0] @ w.T + b) @ v.T + c, data[1])

    hessian = torch.autograd.functional.hessian(lambda p: loss(p, PRETRAIN), base) + 0.02 * torch.eye(
        14, dtype=torch.float64
    )
    jacobian = torch.autograd.functional.jacobian
    slope = torch.linalg.solve(hessian, jacobian(lambda p: loss(p, query), base))
    truth = [
        -float(
            slope @ jacobian(lambda p, i=i: loss(p, (PRETRAIN[0][i : i + 1], PRETRAIN[1][i : i + 1])), base)
        )
        for i in range(12)
    ]
    np.testing.assert_allclose(found, truth, rtol=1e-8)


def test_models_are_left_as_they_were():
    base, new = stages(1.0)
    base.module.train()
    new.module.head.train()
    new.module.eval()
    before = {name: value.clone() for name, value in new.module.state_dict().items()}
    influence(base, new, QUERY_DATA, embedding="embedding", alpha=1.0, solver=Exact())
    assert base.module.dropout.training
    assert not new.module.dropout.training
    assert all(torch.equal(value, before[name]) for name, value in new.module.state_dict().items())
    assert all(p.grad is None for p in (*base.module.parameters(), *new.module.parameters()))


def test_normalisation_counts_as_a_constant():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, N_NEW)).double().train()
    stage = Stage(module, TensorDataset(*FINETUNE), rows, weight_decay=1.0, batch_size=2)
    mean = module[1].running_mean.clone()
    influence(stage, stage, QUERY_DATA, solver=Exact())
    assert torch.equal(module[1].running_mean, mean)
    assert module[1].training


def test_embedding_may_be_a_rule():
    base, new = stages(1.0)
    chosen = influence(
        base, new, QUERY_DATA, embedding=lambda name: name in {"embedding.weight", "embedding.bias"},
        alpha=1.0, solver=Exact(),
    )  # fmt: skip
    np.testing.assert_array_equal(chosen, scores(1.0))


@pytest.mark.parametrize("name", ["trunk", "embed", "embedding."])
def test_unknown_embedding_is_refused(name):
    with pytest.raises(
        ValueError, match=rf"`embedding` must name a submodule.*got '{name}'.*embedding\.weight"
    ):
        influence(*stages(None), QUERY_DATA, embedding=name)


def test_embedding_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"'head\.weight' has shape \(2, 2\) in the base model and \(3, 2\)"):
        influence(*stages(1.0), QUERY_DATA, alpha=1.0)


def test_embedding_that_is_missing_is_refused():
    base, _ = stages(None)
    other = Stage(nn.Linear(3, N_NEW).double(), TensorDataset(*FINETUNE), rows)
    with pytest.raises(ValueError, match=r"'embedding\.weight' is not in the finetuned model"):
        influence(base, other, QUERY_DATA, embedding="embedding")


def test_updated_embedding_asks_for_alpha():
    with pytest.raises(ValueError, match=r"'embedding\.weight' was changed by finetuning.*`alpha`"):
        influence(*stages(1.0), QUERY_DATA, embedding="embedding")


def test_frozen_embedding_takes_no_alpha():
    base, new = stages(None)
    new.module.embedding.requires_grad_(False)
    with pytest.raises(ValueError, match=r"does not require gradients.*`alpha=None`"):
        influence(base, new, QUERY_DATA, embedding="embedding", alpha=1.0)
    # A fixed embedding may be frozen.
    found = influence(base, new, QUERY_DATA, embedding="embedding", solver=Exact())
    np.testing.assert_allclose(found, scores(None), rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive(alpha):
    with pytest.raises(ValueError, match=r"`alpha` must be in \(0, inf\)"):
        influence(*stages(None), QUERY_DATA, embedding="embedding", alpha=alpha)


def test_queries_need_a_loss_of_each_row():
    base, new = stages(None, losses=lambda module, batch: rows(module, batch).mean())
    with pytest.raises(CaptureError, match=r"`losses` must return the loss of each row, of shape \(4,\)"):
        influence(base, new, QUERY_DATA, embedding="embedding")


@pytest.mark.parametrize("solver", [Exact(), ConjugateGradients(progress=False)])
def test_overflow_in_finetuning_is_told_of_its_data(solver):
    base, new = stages(1.0)
    broken = replace(new, losses=lambda m, b: rows(m, b) / (b[0][:, 0] != FINETUNE[0][3][0]))
    asked = replace(new, data=QUERY_DATA)
    both = TwoStages(base, broken, embedding="embedding", alpha=1.0, solver=solver)
    with pytest.raises(
        ValueError, match=r"must have finite derivatives.* 9 samples of `data` \(TensorDataset"
    ):
        both.direction(asked)


def test_folder_as_the_file_is_refused_before_anything_is_run(tmp_path):
    base, new = stages(None, losses=lambda module, batch: pytest.fail("was run"))
    with pytest.raises(ValueError, match=r"`path` must be a file, got the folder .*scores\.npy"):
        influence(base, new, QUERY_DATA, embedding="embedding", path=tmp_path)
    with pytest.raises(ValueError, match=r"`path` must be a file, got the folder"):
        score_pool(base, base.parameters(), path=tmp_path)


def test_queries_without_labels_are_refused():
    base, new = stages(None, losses=None)
    with pytest.raises(CaptureError, match="Targets must be whole numbers"):
        influence(base, new, [(QUERIES[0][0], 0.5)], embedding="embedding")


def test_one_hessian_serves_all_queries(monkeypatch):
    made = []
    inner = Curvature.matrix
    monkeypatch.setattr(Curvature, "matrix", lambda self: made.append(self) or inner(self))
    base, new = stages(1.0)
    both = TwoStages(base, new, embedding="embedding", alpha=1.0, solver=Exact())
    directions = [both.direction([QUERY_DATA[i]]) for i in range(4)]
    assert len(made) == 2
    alone = [score_pool(base, direction, progress=False) for direction in directions]
    np.testing.assert_allclose(np.mean(alone, axis=0), scores(1.0), rtol=1e-9)


def test_queries_may_be_read_in_a_way_of_their_own():
    base, new = stages(1.0)
    both = TwoStages(base, new, embedding="embedding", alpha=1.0, solver=Exact())
    doubled = replace(new, data=QUERY_DATA, losses=lambda module, batch: 2 * rows(module, batch))
    found = score_pool(base, both.direction(doubled), progress=False)
    np.testing.assert_allclose(found, 2 * scores(1.0), rtol=1e-9)


def test_queries_to_another_module_are_refused():
    base, new = stages(1.0)
    both = TwoStages(base, new, embedding="embedding", alpha=1.0)
    with pytest.raises(ValueError, match="`queries` must be asked of the finetuned module"):
        both.direction(base)
