"""Candidates and a model to look at them with, as the tests of all screens need them."""

import copy
from functools import cache

import torch
from torch.nn.functional import cross_entropy

from lightning_mixcd import Candidates, Readout
from lightning_mixcd.look import Look
from tests.toys import Toy, finetune, pool

RATE = 0.3


@cache
def _drifted():
    module = Toy(dropout=0.4)
    optimizer = torch.optim.SGD(module.parameters(), 0.5)
    x, y = finetune().tensors
    for _ in range(15):
        optimizer.zero_grad()
        cross_entropy(module.eval().net(x[:, :-1]), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return module.train()


def drifted():
    """A model that has been finetuned a little, so that some of the pool is damaged."""
    return copy.deepcopy(_drifted())


def some(n, seed=0):
    """Pool indices."""
    return torch.randperm(len(pool()), generator=torch.Generator().manual_seed(seed))[:n]


def was_right(index):
    """Which of these the base model is said to have had right."""
    return index % 4 > 0


def finetune_rows():
    return list(finetune()[:8])


def candidates(module, index, *, readout=None, rows=None):
    """What a screen is given."""
    look = Look(module, readout or Readout(), learning_rate=lambda: RATE)
    look.with_features = True
    ticket = {"index": index, "base_correct": was_right(index)}
    return Candidates(list(pool()[index]) if rows is None else rows, finetune_rows(), ticket, look)


def chosen(strategy, module, index, n, **given):
    """Pool indices that a screen chooses."""
    strategy.attach(module.net[-1])
    positions = strategy.screen(candidates(module, index, **given), n)
    assert positions.dtype == torch.int64
    assert positions.shape == (n,)
    assert len(set(positions.tolist())) == n
    return index[positions].tolist()


def alone(module, index):
    """Logits and loss of each pool sample in eval mode, the obvious way."""
    module = copy.deepcopy(module).eval()
    x, y = pool()[index]
    logits = module.net(x[:, :-1])
    return logits.detach(), cross_entropy(logits, y, reduction="none").detach()


def highest(scores, index, n):
    """Pool indices of the highest scores."""
    return [i for _, i in sorted(zip(scores.tolist(), index.tolist(), strict=True), reverse=True)[:n]]
