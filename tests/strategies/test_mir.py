"""What a real step of plain SGD would hurt most."""

import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_mixcd import MIR, CaptureError, Readout
from tests.strategies.screening import RATE, alone, candidates, chosen, drifted, finetune_rows, highest, some


def after_a_step(module, rate):
    """The model after a real step on the finetune rows."""
    module = copy.deepcopy(module).eval()
    x, y = finetune_rows()
    optimizer = torch.optim.SGD(module.parameters(), rate)
    cross_entropy(module.net(x[:, :-1]), y).backward()
    optimizer.step()
    return module


@pytest.mark.parametrize("rate", [None, 0.01, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_most_hurt_are_chosen(rate, seed):
    module, index = drifted(), some(20, seed)
    rise = alone(after_a_step(module, rate or RATE), index)[1] - alone(module, index)[1]
    assert chosen(MIR(learning_rate=rate), module, index, 5) == highest(rise, index, 5)


def test_parameters_that_are_not_trained_do_not_step():
    module, index = drifted(), some(20)
    for parameter in module.net[0].parameters():
        parameter.requires_grad_(False)
    stepped = after_a_step(module, RATE)
    assert torch.equal(stepped.net[0].weight, module.net[0].weight)
    rise = alone(stepped, index)[1] - alone(module, index)[1]
    assert chosen(MIR(), module, index, 5) == highest(rise, index, 5)


def test_without_a_learning_rate_all_are_alike_and_come_as_drawn():
    # As in the first step of a warm-up.
    module, index = drifted(), some(20)
    given = candidates(module, index)
    given.look._learning_rate = lambda: 0.0
    assert MIR().screen(given, 6).tolist() == list(range(6))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_rates_that_are_none_are_refused(rate):
    with pytest.raises(ValueError, match=r"`learning_rate` must be in \(0, inf\), got"):
        MIR(learning_rate=rate)


def test_losses_are_required():
    rule = Readout(correctness=lambda outputs, batch: outputs["logits"].argmax(1) == batch[1])
    with pytest.raises(CaptureError, match=r"MIR goes by the loss of each row, and the model shows none\."):
        MIR().screen(candidates(drifted(), some(20), readout=rule), 5)
