"""FLOW in training, against a plain loop."""

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_mixcd import NoRehearsal, Uniform
from lightning_mixcd.penalties import Flow
from tests.penalties.replay import assert_same, base_net, fit, gradient_of, parted, replay
from tests.toys import POOL_IDS, finetune


def slow_loss(net, ids, *, tau):
    """The mean of weighted losses, one row at a time."""
    new, old = (list(zip(*rows, strict=True)) for rows in parted(ids))
    with torch.no_grad():
        base_losses = [float(cross_entropy(base_net()(x[None]), y[None])) for x, y in new]
    scale = sorted(base_losses)[(len(base_losses) - 1) // 2] if tau is None else tau
    total = sum(
        torch.exp(torch.tensor(-loss / scale)) * cross_entropy(net(x[None]), y[None])
        for loss, (x, y) in zip(base_losses, new, strict=True)
    )
    total = total + sum(cross_entropy(net(x[None]), y[None]) for x, y in old)
    return total / (len(new) + len(old))


@pytest.mark.parametrize("tau", [None, 0.7])
@pytest.mark.parametrize("strategy", [Uniform, NoRehearsal])
def test_as_a_loop_over_rows(tau, strategy):
    module, _ = fit([Flow(tau)], strategy())
    assert len(module.seen) == 5
    assert_same(module, replay(module.seen, lambda net, ids: gradient_of(net, slow_loss(net, ids, tau=tau))))


def test_rows_without_a_label_count_nowhere():
    x, y = finetune().tensors
    holes = TensorDataset(x, y.masked_fill(x[:, -1].long() % 4 == 1, -100))
    module, _ = fit([Flow(0.7)], data=holes)

    def gradients(net, ids):
        return gradient_of(net, slow_loss(net, [i for i in ids if i >= POOL_IDS or i % 4 != 1], tau=0.7))

    assert_same(module, replay(module.seen, gradients))


def test_base_forwards_are_counted():
    plain, flow = (fit(penalties)[1] for penalties in ([], [Flow()]))
    assert flow.compute_units - plain.compute_units == 40


@pytest.mark.parametrize("tau", [0, -1.0, float("nan")])
def test_bad_temperature_is_refused(tau):
    with pytest.raises(
        ValueError, match=rf"`tau` must be in \(0, inf\], got {tau}\. None takes the median of each"
    ):
        Flow(tau)
