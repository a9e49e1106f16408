import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_mixcd.app.finished_run import FinishedRun
from lightning_mixcd.app.queries import choose_queries
from lightning_mixcd.app.two_stages import RunStages, drawn_losses, solver_for
from lightning_mixcd.data import Pool
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.influence import ConjugateGradients, Exact, KroneckerFactored, score_pool
from lightning_mixcd.tasks import TwoHeads, mlp


def samples(seed, n_classes):
    generator = torch.Generator().manual_seed(seed)
    return Pool(
        TensorDataset(
            torch.randn(20, 3, generator=generator), torch.randint(n_classes, (20,), generator=generator)
        )
    )


def run_of(make):
    torch.manual_seed(0)
    base, finetuned = make(), make()
    train, val = ({"prior": samples(k, 3), "new": samples(k + 1, 2)} for k in (0, 2))
    return FinishedRun(None, base, finetuned, None, train, val)


def two_heads():
    return TwoHeads(n_inputs=3, n_new=2, n_prior=3, width=2)


def test_what_both_tasks_go_through_is_the_embedding():
    stages = RunStages(run_of(two_heads), alpha=1.0, solver=Exact(1e-3))
    trunk = ["trunk.1.weight", "trunk.1.bias"]
    assert [*stages.base.parameters()] == [*trunk, "heads.prior.weight", "heads.prior.bias"]
    assert [*stages.finetuned.parameters()] == [*trunk, "heads.new.weight", "heads.new.bias"]


@pytest.mark.parametrize("task", ["prior", "new"])
def test_each_task_is_asked_by_its_own_step(task):
    run = run_of(two_heads)
    queries = choose_queries(run, task)
    x, y = run.val[task].dataset.tensors
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(run.finetuned(x, task), y, reduction="none").numpy()
    index = [query.index for query in queries]
    np.testing.assert_allclose([query.after.loss for query in queries], losses[index], rtol=1e-5)
    stages = RunStages(run, alpha=1.0, solver=Exact(1e-3))
    assert score_pool(stages.base, stages.direction(task, index), progress=False).any()


def test_solver_goes_by_size():
    kinds = [type(solver_for(n)) for n in (1_000, 100_000, 10_000_000)]
    assert kinds == [Exact, ConjugateGradients, KroneckerFactored]


def test_labels_are_drawn_from_what_the_model_predicts():
    module = mlp(n_inputs=3, n_classes=3, n_hidden=0)
    torch.nn.init.zeros_(module.network.head.weight)
    module.network.head.bias.data = torch.tensor([0.0, 0.0, -50.0])
    batch = torch.randn(400, 3), torch.full((400,), 2)  # labels of the data, which do not count
    torch.testing.assert_close(drawn_losses(module, batch), torch.full((400,), 2.0).log())


def test_labels_of_two_heads_are_not_drawn():
    with pytest.raises(CaptureError, match=r"Take solver=ekfac solver\.sampled=null"):
        drawn_losses(two_heads(), (torch.zeros(2, 3), torch.tensor([0, 1])))
