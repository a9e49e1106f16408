"""Scores of the task x stage matrix against oracles, laws, and a case worked out by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.functional import task_matrix
from tests.oracles import task_matrix as oracle

SQUARE = [name for name in task_matrix.__all__ if name != "forward_transfer"]


def matrices(n_tasks):
    share = st.floats(0, 1, width=32)
    return st.lists(st.lists(share, min_size=n_tasks, max_size=n_tasks), min_size=n_tasks, max_size=n_tasks)


def doubles(rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("name", SQUARE)
@given(rows=st.integers(1, 5).flatmap(matrices))
def test_score_is_that_of_the_oracle(name, rows):
    found = getattr(task_matrix, name)(doubles(rows)).item()
    assert found == pytest.approx(getattr(oracle, name)(rows), nan_ok=True)


@given(rows=st.integers(1, 5).flatmap(matrices), seed=st.integers(0, 9))
def test_forward_transfer_is_that_of_the_oracle(rows, seed):
    initial = torch.rand(len(rows), generator=torch.Generator().manual_seed(seed)).double()
    found = task_matrix.forward_transfer(doubles(rows), initial).item()
    assert found == pytest.approx(oracle.forward_transfer(rows, initial.tolist()), nan_ok=True)


def test_three_tasks_by_hand():
    a = doubles([[0.5, 0.2, 0.1], [0.9, 0.8, 0.3], [0.6, 0.4, 0.8]])
    expected = {
        "final_accuracy": (0.6 + 0.4 + 0.8) / 3,
        "mean_accuracy": (0.8 + 2.0 + 1.8) / 9,
        "transfer_accuracy": (0.2 + (0.1 + 0.3) / 2) / 2,
        "stage_forgetting": ((0.9 - 0.6) + (0.8 - 0.4)) / 2,  # the first task was best after stage 2
        "backward_transfer": ((0.6 - 0.5) + (0.4 - 0.8)) / 2,
    }
    for name, score in expected.items():
        assert getattr(task_matrix, name)(a).item() == pytest.approx(score), name
    found = task_matrix.forward_transfer(a, doubles([0.1, 0.1, 0.2]))
    assert found.item() == pytest.approx(((0.2 - 0.1) + (0.3 - 0.2)) / 2)


@given(rows=st.integers(2, 5).flatmap(matrices))
def test_forgetting_is_at_least_what_backward_transfer_lost(rows):
    a = doubles(rows)
    assert task_matrix.stage_forgetting(a) >= -task_matrix.backward_transfer(a) - 1e-12


@given(rows=st.integers(2, 5).flatmap(matrices))
def test_model_that_does_not_change_forgets_nothing(rows):
    a = doubles(rows)[:1].repeat(len(rows), 1)
    assert task_matrix.stage_forgetting(a) == task_matrix.backward_transfer(a) == 0
    torch.testing.assert_close(task_matrix.final_accuracy(a), task_matrix.mean_accuracy(a))


def test_one_task_can_neither_be_forgotten_nor_transferred_to():
    a = doubles([[0.7]])
    assert task_matrix.final_accuracy(a) == task_matrix.mean_accuracy(a) == 0.7
    for name in ("transfer_accuracy", "stage_forgetting", "backward_transfer"):
        assert getattr(task_matrix, name)(a).isnan()
    assert task_matrix.forward_transfer(a, doubles([0.1])).isnan()


@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize("shape", [(3, 2), (4, 3), (3,), (0, 0)])
def test_other_shapes_are_refused(name, shape):
    with pytest.raises(ValueError, match=r"`accuracies` must have a row per stage .*, got shape .*`initial`"):
        getattr(task_matrix, name)(torch.zeros(shape))


@pytest.mark.parametrize("given", [[[0.5]], torch.tensor([[1]])])
def test_other_types_are_refused(given):
    with pytest.raises(TypeError, match=r"`accuracies` must be a float tensor, got (list|torch.int64)"):
        task_matrix.final_accuracy(given)


def test_initial_accuracies_of_other_tasks_are_refused():
    with pytest.raises(
        ValueError, match=r"`initial` must have one accuracy per task, shape \(2,\), got \(3,\)"
    ):
        task_matrix.forward_transfer(torch.zeros(2, 2), torch.zeros(3))
