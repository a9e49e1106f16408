"""Every metric in every way that torchmetrics is used, against the functional twin on all samples at once."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import distributed
from torchmetrics import Metric, MetricCollection

from lightning_mixcd import metrics
from lightning_mixcd.functional import flips, task_matrix
from tests.processes import start

# 5 right and right, 3 right and wrong, 1 wrong and right, 2 wrong and wrong, in mixed order.
BASE_CORRECT = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1], dtype=torch.bool)
CORRECT = torch.tensor([1, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0], dtype=torch.bool)

T = 3
STAGES = [None, *range(T)]


def answers(stage, task):
    """Whether each of some samples was right; their number depends on the task."""
    generator = torch.Generator().manual_seed(10 * T if stage is None else 10 * stage + task)
    return torch.rand(4 + 3 * task, generator=generator) < 0.6


ACCURACIES = torch.tensor([[answers(i, j).float().mean() for j in range(T)] for i in range(T)])
INITIAL = torch.tensor([answers(None, j).float().mean() for j in range(T)])


class Updates(NamedTuple):
    """What metrics of one kind are told, batch by batch, such that none of them is left without a value."""

    make: Callable[[type[Metric]], Metric]
    batches: list[tuple[tuple[Any, ...], dict[str, Any]]]


FLIPS = Updates(
    lambda kind: kind(),
    [
        ((BASE_CORRECT[rows], CORRECT[rows]), {})
        for rows in (slice(0, 4), slice(4, 7), slice(7, 7), slice(7, 11))
    ],
)
MATRIX = Updates(
    lambda kind: kind(T),
    [
        ((part,), {"task": task, "stage": stage})
        for stage in STAGES
        for task in range(T)
        for part in answers(stage, task).tensor_split(2)
    ],
)
UNITS = Updates(lambda kind: kind(), [((3, 1), {}), ((0, 4), {}), ((10**15, 2), {})])

EXPECTED = {
    metrics.CollateralDamageRate: (FLIPS, flips.collateral_damage_rate(BASE_CORRECT, CORRECT)),
    metrics.Retention: (FLIPS, flips.retention(BASE_CORRECT, CORRECT)),
    metrics.NegativeFlipRate: (FLIPS, flips.negative_flip_rate(BASE_CORRECT, CORRECT)),
    metrics.PositiveFlipRate: (FLIPS, flips.positive_flip_rate(BASE_CORRECT, CORRECT)),
    metrics.Forgetting: (FLIPS, flips.forgetting(BASE_CORRECT, CORRECT)),
    metrics.FinalAccuracy: (MATRIX, task_matrix.final_accuracy(ACCURACIES)),
    metrics.MeanAccuracy: (MATRIX, task_matrix.mean_accuracy(ACCURACIES)),
    metrics.TransferAccuracy: (MATRIX, task_matrix.transfer_accuracy(ACCURACIES)),
    metrics.StageForgetting: (MATRIX, task_matrix.stage_forgetting(ACCURACIES)),
    metrics.BackwardTransfer: (MATRIX, task_matrix.backward_transfer(ACCURACIES)),
    metrics.ForwardTransfer: (MATRIX, task_matrix.forward_transfer(ACCURACIES, INITIAL)),
    metrics.ComputeUnits: (UNITS, torch.tensor(10**15 + 3 + 2 * 7)),
}
LOW_IS_BETTER = {
    metrics.CollateralDamageRate,
    metrics.NegativeFlipRate,
    metrics.Forgetting,
    metrics.StageForgetting,
    metrics.ComputeUnits,
}
every_metric = pytest.mark.parametrize("kind", list(EXPECTED), ids=lambda kind: kind.__name__)


def made(kind):
    return EXPECTED[kind][0].make(kind)


def told(metric, part=slice(None), kind=None):
    """The metric, after some of the batches."""
    for args, kwargs in EXPECTED[kind or type(metric)][0].batches[part]:
        metric.update(*args, **kwargs)
    return metric


def assert_whole(metric):
    torch.testing.assert_close(metric.compute(), EXPECTED[type(metric)][1])


def test_every_metric_is_here():
    public = {getattr(metrics, name) for name in metrics.__all__}
    assert {*EXPECTED} == public - {metrics.FlipMetric, metrics.TaskMatrixMetric}


@every_metric
class TestEveryMetric:
    def test_many_batches_are_one(self, kind):
        assert_whole(told(made(kind)))

    def test_forward_gives_the_batch_and_keeps_the_whole(self, kind):
        metric = made(kind)
        for i, (args, kwargs) in enumerate(EXPECTED[kind][0].batches[:2]):
            of_batch = told(made(kind), slice(i, i + 1)).compute()
            torch.testing.assert_close(metric(*args, **kwargs), of_batch, equal_nan=True)
        assert_whole(told(metric, slice(2, None)))

    def test_reset_forgets(self, kind):
        metric = told(made(kind), slice(0, 1))
        metric.reset()
        assert_whole(told(metric))

    @pytest.mark.parametrize("copy", [lambda m: pickle.loads(pickle.dumps(m)), lambda m: m.clone()])  # noqa: S301 -- its own pickle
    def test_copies_carry_the_counts_and_go_their_own_way(self, kind, copy):
        metric = told(made(kind), slice(0, 2))
        other = copy(metric)
        metric.reset()
        assert_whole(told(other, slice(2, None)))
        assert_whole(told(metric))

    def test_state_is_saved_when_asked_for(self, kind):
        metric, other = made(kind), made(kind)
        metric.persistent(True)
        other.persistent(True)
        other.load_state_dict(told(metric, slice(0, 2)).state_dict())
        assert_whole(told(other, slice(2, None)))

    def test_half_precision_does_not_touch_the_counts(self, kind):
        assert_whole(told(made(kind).half()))

    def test_inference_mode_may_end_between_batches(self, kind):
        metric = made(kind)
        with torch.inference_mode():
            metric.reset()
            told(metric, slice(0, 2))
        assert_whole(told(metric, slice(2, None)))

    @pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
    def test_before_the_first_batch_nothing_is_claimed(self, kind):
        nothing = made(kind).compute()
        assert nothing == 0 if kind is metrics.ComputeUnits else nothing.isnan()

    def test_facts_are_declared(self, kind):
        assert kind.higher_is_better is (kind not in LOW_IS_BETTER)
        assert kind.is_differentiable is False
        assert kind.full_state_update is False


def collection(base):
    """All metrics that share the state of a base."""
    return MetricCollection([made(kind) for kind in EXPECTED if issubclass(kind, base)])


@pytest.mark.parametrize("base", [metrics.FlipMetric, metrics.TaskMatrixMetric])
def test_a_collection_updates_the_shared_counts_once(base):
    together = collection(base)
    told(together, kind=next(kind for kind in EXPECTED if issubclass(kind, base)))
    assert len(together.compute_groups) == 1
    for metric in together.values():
        assert_whole(metric)


@pytest.mark.parametrize(("base", "args"), [(metrics.FlipMetric, ()), (metrics.TaskMatrixMetric, (T,))])
def test_bases_are_abstract(base, args):
    with pytest.raises(TypeError, match="abstract"):
        base(*args)


def write_what_a_rank_sees(rank, folder):
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    seen = {kind.__name__: told(made(kind), slice(rank, None, 2)).compute().item() for kind in EXPECTED}
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


def test_two_processes_are_one(tmp_path):
    printed = tmp_path / "printed"
    processes = [
        start(write_what_a_rank_sees, rank, tmp_path, folder=tmp_path, printed=[printed] * 2)
        for rank in range(2)
    ]
    for process in processes:
        process.join(120)
        process.kill()  # it may be waiting for one that failed
        process.join()
    assert [process.exitcode for process in processes] == [0, 0], printed.read_text()
    expected = {kind.__name__: value.item() for kind, (_, value) in EXPECTED.items()}
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == pytest.approx(expected)
