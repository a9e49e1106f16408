"""Metrics of the task x stage matrix: what is measured where, and what is refused."""

import pytest
import torch

from lightning_mixcd import metrics
from tests.metrics.test_every_metric import EXPECTED, T


@pytest.mark.parametrize("kind", [kind for kind in EXPECTED if issubclass(kind, metrics.TaskMatrixMetric)])
def test_nothing_is_claimed_of_what_was_not_measured(kind):
    metric = kind(T)
    metric.update(torch.tensor([True]), task=0, stage=0)
    assert metric.compute().isnan()


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
