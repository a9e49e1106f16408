"""Rows that count as right by their loss."""

import pytest
import torch

from lightning_mixcd import CaptureError
from lightning_mixcd.functional.tolerance import right_now


def test_answers_count_where_no_loss_is_allowed():
    correct = torch.tensor([True, False])
    assert right_now(correct, None, {"index": torch.arange(2)}) is correct


def test_a_loss_up_to_the_allowed_one_is_right_and_nan_is_not():
    loss = torch.tensor([0.4, 0.5, 0.6, float("nan"), float("inf"), -1.0])
    found = right_now(torch.zeros(6).bool(), loss, {"allowed_loss": torch.full((6,), 0.5)})
    assert found.tolist() == [True, True, False, False, False, True]


def test_losses_are_required_where_they_are_compared():
    with pytest.raises(CaptureError, match=r"Readout\(tolerance=...\) compares the loss of each row"):
        right_now(torch.ones(2).bool(), None, {"allowed_loss": torch.ones(2)})
