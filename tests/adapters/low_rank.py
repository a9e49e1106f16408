"""Runs that adapt the toy by low-rank blocks."""

import copy

import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_mixcd import Pool, RehearsalCallback, Uniform
from lightning_mixcd.adapters import LoRA, SelectiveLoRA
from tests.toys import Toy, finetune, pool, trainer

CLASSES = [LoRA, SelectiveLoRA]


class Deep(Toy):
    """With six layers, the last of them the head; plain steps, off which gradients can be read."""

    def __init__(self, *, lr=0.1):
        super().__init__(lr=lr)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            hidden = [layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.Tanh())]
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), *hidden, nn.Linear(8, 3))
        for layer in self.net[::2]:
            layer.weight.data *= 2  # so that each makes a difference

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


def inputs():
    return torch.randn(20, 4, generator=torch.Generator().manual_seed(5))


def fit(module, *callbacks, ckpt_path=None, **settings):
    """Train, and return the trainer."""
    made = trainer(*callbacks, **settings)
    made.fit(module, DataLoader(finetune(), 8), ckpt_path=ckpt_path)
    return made


def injected(adapter, module=None):
    """A module with the adapter in it, and one without."""
    module = module or Deep()
    base = copy.deepcopy(module)
    adapter.setup(None, module, "fit")
    return module, base


def same(one, two):
    """Whether two states are equal, names and all."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def learnt_by(rank, n, **settings):
    """What one of n processes has in the end, that share out the data."""
    torch.manual_seed(rank)  # blocks begin alike all the same
    module, adapter = Deep(), SelectiveLoRA(rank=2, sparsity=0.02, warmup_steps=3, most_active=0.6)
    batches = [list(range(first + rank, first + 8, n)) for first in range(0, 40, 8)]
    rehearsal = RehearsalCallback(Uniform(), pool=Pool(pool(), lag=1), mix_ratio=0.5)
    made = trainer(adapter, rehearsal, use_distributed_sampler=False, max_epochs=3, **settings)
    made.fit(module, DataLoader(finetune(), batch_sampler=batches))
    adapter.merge(module)
    return {"blocks": [*adapter.active_blocks], "outputs": module.net(inputs()).tolist()}
