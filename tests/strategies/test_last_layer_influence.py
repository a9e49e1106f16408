"""Conflict of last-layer gradients, against autograd on the real head."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_mixcd import LastLayerInfluence, Readout
from tests.strategies.screening import alone, chosen, drifted, finetune_rows, highest, some
from tests.toys import Toy, pool


def head_gradient(module, x, y):
    """Gradient of the mean loss by the parameters of the head, by autograd."""
    module = copy.deepcopy(module).eval()
    loss = cross_entropy(module.net(x[:, :-1]), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, [*module.net[-1].parameters()])])


def without_bias(module):
    module.net[-1].bias = None
    return module


@pytest.mark.parametrize("make", [drifted, lambda: without_bias(drifted())])
@pytest.mark.parametrize("n", [5, 20])
def test_the_most_in_conflict_are_chosen(make, n):
    module, index = make(), some(20)
    finetune = head_gradient(module, *finetune_rows())
    x, y = pool()[index]
    conflict = torch.stack([-head_gradient(module, x[[i]], y[[i]]) @ finetune for i in range(20)])
    assert chosen(LastLayerInfluence(), module, index, n) == highest(conflict, index, n)


def test_it_is_the_first_order_of_what_a_step_of_the_head_does():
    module, index = drifted(), some(20)
    stepped, rate = copy.deepcopy(module).eval(), 1e-3
    loss = cross_entropy(stepped.net(finetune_rows()[0][:, :-1]), finetune_rows()[1])
    head = [*stepped.net[-1].parameters()]
    with torch.no_grad():
        for parameter, gradient in zip(head, torch.autograd.grad(loss, head), strict=True):
            parameter -= rate * gradient
    rise = alone(stepped, index)[1] - alone(module, index)[1]
    assert set(chosen(LastLayerInfluence(), module, index, 5)) == set(highest(rise, index, 5))


def test_rows_whose_target_is_no_class_pull_nowhere():
    module, index = drifted(), some(20)
    x, y = pool()[index]
    y = torch.where(torch.arange(20) == 3, -100, y)
    ranked = chosen(LastLayerInfluence(), module, index, 20, rows=[x, y])
    finetune = head_gradient(module, *finetune_rows())
    pulled = [-head_gradient(module, x[[i]], y[[i]]) @ finetune for i in range(20) if i != 3]
    assert ranked.index(int(index[3])) == sum(bool(conflict > 0) for conflict in pulled)


def test_a_head_of_several_layers_is_refused():
    module = Toy()
    head = Readout(features="net").head(module)
    assert isinstance(head, nn.Sequential)
    with pytest.raises(ValueError, match=r"The head must be one `nn.Linear` for LastLayerInfluence, got Seq"):
        LastLayerInfluence().attach(head)
