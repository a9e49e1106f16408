"""Drawing many times and counting, as the tests of all strategies need it."""

import numpy as np
import torch

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.types import Outcome

__all__ = ["counts", "draws", "labelled", "learn", "started"]


def labelled(*sizes, wrong=0):
    """A pool with so many base-correct samples per label, and wrong ones of label 0 at the end."""
    label = [k for k, size in enumerate(sizes) for _ in range(size)] + [0] * wrong
    n = len(label)
    return Ledger.from_arrays(correct=np.arange(n) < n - wrong, loss=np.arange(n) / n, label=label)


def started(strategy, ledger, seed=0):
    strategy.setup(ledger.size, ledger, seed=seed)
    return strategy


def draws(strategy, n, n_draws, first=0):
    """What a strategy draws, one list per draw."""
    generators = (torch.Generator().manual_seed(first + k) for k in range(n_draws))
    return [strategy.draw(n, signal=strategy.signal(), generator=g).tolist() for g in generators]


def counts(strategy, n_pool, n, n_draws):
    """How often each pool sample was drawn."""
    return np.bincount([i for draw in draws(strategy, n, n_draws) for i in draw], minlength=n_pool)


def learn(strategy, index, damaged, steps=1.0):
    """Let a strategy see an outcome."""
    index, damaged = torch.as_tensor(index), torch.as_tensor(damaged)
    tally = strategy.tally(Outcome(index, ~damaged, context=strategy.context(index)))
    strategy.update(tally, steps=steps)
