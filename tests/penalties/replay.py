"""What a module was given, trained on again in a plain loop."""

from functools import cache

import torch
from torch.utils.data import DataLoader

from lightning_mixcd import Pool, RehearsalCallback, Uniform
from tests.toys import N_FEATURES, POOL_IDS, Toy, base_state, finetune, ledger, network, pool, trainer


def base_net():
    """The base model."""
    with torch.random.fork_rng():
        net = network()
    net.load_state_dict(base_state())
    return net


def base_outputs(net):
    """What the base model, or a part of it, puts out for the pool."""
    return net(pool().tensors[0][:, :N_FEATURES]).detach().numpy()


@cache
def ledger_with_logits():
    return ledger().with_columns(logits=base_outputs(base_net()))


@cache
def full_ledger():
    """The base model's record of the pool, with the logits and the input of the head."""
    return ledger_with_logits().with_columns(features=base_outputs(base_net()[:-1]))


def fit(penalties, strategy=None, *, mix_ratio=0.5, module=None, data=None, schedule=None, **settings):
    """Train for an epoch of five batches; return the module and the callback."""
    module = module or Toy()
    callback = RehearsalCallback(
        strategy or Uniform(),
        pool=Pool(pool(), lag=1),
        ledger=ledger_with_logits(),
        mix_ratio=mix_ratio,
        penalties=penalties,
        schedule=schedule,
    )
    trainer(callback, **settings).fit(module, DataLoader(data or finetune(), 8))
    return module, callback


def samples(ids):
    """Features and labels of finetune samples, or of pool samples."""
    x, y = (pool() if ids and ids[0] >= POOL_IDS else finetune()).tensors
    index = [i % POOL_IDS for i in ids]
    return x[index, :N_FEATURES], y[index]


def parted(ids):
    """The finetune samples of a batch, and its pool samples."""
    n = sum(i < POOL_IDS for i in ids)
    return samples(ids[:n]), samples(ids[n:])


def replay(steps, gradients, lr=0.05):
    """Weights after one Adam step for each of `steps`, along `gradients(net, step)`."""
    net = base_net()
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for step in steps:
        for parameter, gradient in zip(net.parameters(), gradients(net, step), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return net.state_dict()


def gradient_of(net, loss):
    return torch.autograd.grad(loss, list(net.parameters()))


def assert_same(module, state, rtol=1e-3, atol=1e-4):
    """The module's weights are these, but for rounding that Adam has blown up."""
    for name, value in state.items():
        torch.testing.assert_close(module.net.state_dict()[name], value, rtol=rtol, atol=atol)
