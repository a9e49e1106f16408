"""L2SP: steps of a plain loop, the new head, parameters that are unfrozen later, sharded parameters."""

import pytest
import torch
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy

from lightning_mixcd.penalties import L2SP
from tests.penalties.replay import assert_same, base_net, gradient_of, replay, samples
from tests.penalties.starting import Knock, Still, fit, knocks
from tests.toys import Toy


@pytest.mark.parametrize("head", [None, "net.3"])
def test_steps_are_those_of_a_plain_loop(head):
    alpha, beta = 0.3, 2.0
    module = Toy()
    fit(module, L2SP(alpha, head=head, beta=beta), max_epochs=2)
    base = dict(base_net().named_parameters())

    def slow(net, ids):
        x, y = samples(ids)
        loss = cross_entropy(net(x), y)
        for name, parameter in net.named_parameters():
            new = head is not None and name.startswith("3.")
            far = parameter if new else parameter - base[name].detach()
            loss = loss + (beta if new else alpha) / 2 * far.square().sum()
        return gradient_of(net, loss)

    assert_same(module, replay(module.seen, slow))


def test_name_of_a_head_is_whole():
    module = Toy()
    module.net_of_another = torch.nn.Linear(2, 2)
    penalty = L2SP(head="net")
    penalty.attach(module)
    assert penalty.strength_of("net.0.weight") == penalty.beta
    penalty.alpha = 5.0
    assert penalty.strength_of("net_of_another.weight") == 5.0


@pytest.mark.parametrize("head", ["classifier", "", "net."])
def test_unknown_head_is_refused(head):
    with pytest.raises(ValueError, match=rf"`head` .* got '{head}'\. There are \['net\.0', 'net\.3'\]"):
        fit(Toy(), L2SP(head=head))


class Thaw(Callback):
    """Frees the first layer once some steps are made, then moves it."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            pl_module.net[0].requires_grad_(True)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == 2:
            Knock().on_train_start(trainer, pl_module)


def test_what_is_unfrozen_later_is_held_where_it_was():
    lr, alpha = 0.1, 0.5
    module = Still(lr=lr)
    module.net[0].requires_grad_(False)
    fit(module, L2SP(alpha), callbacks=[Thaw()])
    for name, knock in knocks(module).items():
        expected = Still().get_parameter(name) + knock * (1 - lr * alpha) ** 2
        torch.testing.assert_close(module.get_parameter(name), expected)
