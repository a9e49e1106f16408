"""The head by itself does what it does inside the model."""

import pytest
import torch
from torch import nn

from lightning_mixcd.strategies._head import Head

HEADS = [
    lambda: nn.Linear(3, 4),
    lambda: nn.Linear(3, 4, bias=False),
    lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4)),
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)),
    lambda: nn.Linear(3, 4).double(),
]


@pytest.mark.parametrize("make", HEADS)
def test_same_logits_as_the_live_head(make):
    live = make()
    live(torch.randn(8, 3, dtype=next(live.parameters()).dtype))  # moves the statistics of batch norm
    head, x = Head(live), torch.randn(6, 3)
    parameters = head.parameters()
    expected = live.eval()(x.to(next(live.parameters()))).float()
    assert torch.allclose(head(x, parameters), expected, atol=1e-6)
    assert not head(x, parameters).requires_grad


@pytest.mark.parametrize("make", HEADS)
def test_parameters_follow_the_live_head_and_never_change_afterwards(make):
    live = make()
    head, x = Head(live), torch.randn(6, 3)
    before, copied = head.parameters(), head.parameters().clone()
    with torch.no_grad():
        for parameter in live.parameters():
            parameter += 1
    assert torch.equal(before, copied)
    expected = live.eval()(x.to(next(live.parameters()))).float()
    assert torch.allclose(head(x, head.parameters()), expected, atol=1e-6)
    assert not torch.allclose(head(x, before), expected, atol=1e-2)


def test_live_head_is_left_alone():
    live, calls = nn.Sequential(nn.Linear(3, 4)), []
    live.register_forward_hook(lambda *_: calls.append("out"))
    live[0].register_forward_pre_hook(lambda *_: calls.append("in"))
    head = Head(live)
    head(torch.zeros(2, 3), head.parameters())
    assert not calls
    assert live.training
    assert all(parameter.requires_grad for parameter in live.parameters())
    live(torch.zeros(2, 3))
    assert calls == ["in", "out"]


def test_a_head_may_have_nothing_to_learn():
    head, x = Head(nn.Identity()), torch.randn(2, 3)
    assert head.parameters().numel() == 0
    assert torch.equal(head(x, head.parameters()), x)


def test_hooks_that_hold_the_whole_model_are_not_copied():
    class Uncopied:
        def __call__(self, *_):
            return None

        def __deepcopy__(self, memo):
            raise AssertionError("copied")

    live = nn.Linear(3, 4)
    live.register_forward_hook(Uncopied())
    Head(live)
