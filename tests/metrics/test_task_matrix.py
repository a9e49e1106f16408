"""Every metric of the task x stage matrix against its functional twin."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing
from torchmetrics import MetricCollection

from lightning_mixcd import metrics
from lightning_mixcd.functional import task_matrix

T = 3
TWINS = {
    metrics.FinalAccuracy: task_matrix.final_accuracy,
    metrics.MeanAccuracy: task_matrix.mean_accuracy,
    metrics.TransferAccuracy: task_matrix.transfer_accuracy,
    metrics.StageForgetting: task_matrix.stage_forgetting,
    metrics.BackwardTransfer: task_matrix.backward_transfer,
    metrics.ForwardTransfer: lambda a: task_matrix.forward_transfer(a, INITIAL),
}
every_metric = pytest.mark.parametrize("kind", list(TWINS), ids=lambda kind: kind.__name__)


def answers(stage, task):
    """Whether each of some samples was right; their number depends on the task."""
    generator = torch.Generator().manual_seed(10 * T if stage is None else 10 * stage + task)
    return torch.rand(4 + 3 * task, generator=generator) < 0.6


STAGES = [None, *range(T)]
ACCURACIES = torch.stack([
    torch.stack([answers(stage, task).float().mean() for task in range(T)]) for stage in range(T)
])
INITIAL = torch.stack([answers(None, task).float().mean() for task in range(T)])


def measured(metric, *, cut=None):
    for stage in STAGES:
        for task in range(T):
            for part in answers(stage, task).tensor_split(cut or 1):
                metric.update(part, task=task, stage=stage)
    return metric


def test_every_metric_is_tested():
    kinds = [getattr(metrics, name) for name in metrics.__all__]
    assert {*TWINS} == {kind for kind in kinds if issubclass(kind, metrics.TaskMatrixMetric)} - {
        metrics.TaskMatrixMetric
    }


@every_metric
class TestEveryMetric:
    @pytest.mark.parametrize("cut", [1, 2, 5])
    def test_batches_make_the_matrix(self, kind, cut):
        torch.testing.assert_close(measured(kind(T), cut=cut).compute(), TWINS[kind](ACCURACIES))

    def test_copies_go_their_own_way(self, kind):
        metric = measured(kind(T))
        copies = [pickle.loads(pickle.dumps(metric)), metric.clone()]  # noqa: S301 - its own pickle
        metric.reset()
        metric.update(torch.tensor([True]), task=0, stage=0)
        for copy in copies:
            torch.testing.assert_close(copy.compute(), TWINS[kind](ACCURACIES))

    def test_state_is_saved_when_asked_for(self, kind):
        metric, other = measured(kind(T)), kind(T)
        metric.persistent(True)
        other.persistent(True)
        other.load_state_dict(metric.state_dict())
        other.update(torch.zeros(0, dtype=torch.bool), task=0, stage=0)
        torch.testing.assert_close(other.compute(), TWINS[kind](ACCURACIES))

    def test_nothing_is_claimed_of_what_was_not_measured(self, kind):
        metric = kind(T)
        metric.update(torch.tensor([True]), task=0, stage=0)
        assert metric.compute().isnan()

    def test_inference_mode_may_end_between_stages(self, kind):
        metric = kind(T)
        with torch.inference_mode():
            metric.reset()
            metric.update(torch.tensor([True]), task=0, stage=0)
        metric.update(torch.tensor([False]), task=0, stage=0)
        assert metric.accuracies[0, 0] == 0.5

    def test_half_precision_does_not_touch_the_counts(self, kind):
        torch.testing.assert_close(measured(kind(T).half()).compute(), TWINS[kind](ACCURACIES))

    def test_facts_are_declared(self, kind):
        assert kind.higher_is_better is (kind is not metrics.StageForgetting)
        assert not kind.is_differentiable
        assert not kind.full_state_update


def test_a_collection_updates_the_shared_counts_once():
    collection = measured(MetricCollection([kind(T) for kind in TWINS]))
    assert len(collection.compute_groups) == 1
    for kind, twin in TWINS.items():
        torch.testing.assert_close(collection.compute()[kind.__name__], twin(ACCURACIES))


def write_what_a_rank_sees(rank, folder):
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    collection = MetricCollection([kind(T) for kind in TWINS])
    for stage in STAGES:
        for task in range(T):
            collection.update(answers(stage, task)[rank::2], task=task, stage=stage)
    Path(folder, f"{rank}.json").write_text(
        json.dumps({name: value.item() for name, value in collection.compute().items()})
    )
    distributed.destroy_process_group()


# As in `test_flip_metrics`: a fork is enough for tiny operations, and much faster.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_two_processes_are_one(tmp_path):
    multiprocessing.start_processes(write_what_a_rank_sees, args=(tmp_path,), nprocs=2, start_method="fork")
    expected = {kind.__name__: twin(ACCURACIES).item() for kind, twin in TWINS.items()}
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected)


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        metrics.TaskMatrixMetric(T)


def test_no_task_is_refused():
    with pytest.raises(
        ValueError, match=r"`n_tasks` must be at least 1, got 0\. Count the base model's task"
    ):
        metrics.FinalAccuracy(0)


@pytest.mark.parametrize(("task", "stage", "name"), [(3, 0, "task"), (-1, 0, "task"), (0, 3, "stage")])
def test_other_tasks_and_stages_are_refused(task, stage, name):
    with pytest.raises(ValueError, match=rf"`{name}` must be in 0 \.\. 2, got {max(task, stage, key=abs)}"):
        metrics.FinalAccuracy(T).update(torch.tensor([True]), task=task, stage=stage)


def test_predictions_in_place_of_correctness_are_refused():
    with pytest.raises(TypeError, match=r"`correct` must be a bool tensor, got torch.int64\. Compare"):
        metrics.FinalAccuracy(T).update(torch.tensor([3, 1]), task=0, stage=0)
