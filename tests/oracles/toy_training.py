"""A training run that damages pool samples at drifting rates per bin, without a model.

The toy of the paper notes (1.5): each step, undamaged samples of bin k are damaged with a hazard that drifts
from bin to bin, and whatever is rehearsed is repaired. The score is the share of rehearsed samples that were
damaged.
"""

import numpy as np
import torch

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.types import Outcome

__all__ = ["damaged_share", "skewed_ledger"]

N_BINS = 10


def skewed_ledger(n: int = 4000) -> Ledger:
    """A pool in ten bins, each 1.5 times as large as the one before."""
    edges = np.cumsum(1.5 ** np.arange(N_BINS))
    label = np.searchsorted(edges, np.linspace(0, edges[-1], n, endpoint=False), side="right")
    return Ledger.from_arrays(correct=np.ones(n, dtype=bool), loss=np.zeros(n), label=label)


def damaged_share(strategy: Strategy, *, seed: int, n_steps: int = 300, n_draw: int = 16) -> float:
    ledger = skewed_ledger()
    label = ledger.column("label")
    rng = np.random.default_rng(seed)
    places = rng.permutation(N_BINS)
    strategy.setup(ledger.size, ledger, seed=seed)
    damaged = np.zeros(ledger.size, dtype=bool)
    hits = 0
    for step in range(n_steps):
        hazard = 0.004 * np.exp(2 * np.sin(2 * np.pi * (places / N_BINS + step / n_steps / 2)))
        damaged |= rng.random(ledger.size) < hazard[label]
        generator = torch.Generator().manual_seed(1000 * seed + step)
        index = strategy.draw(n_draw, signal=strategy.signal(), generator=generator)
        correct = torch.from_numpy(~damaged[index.numpy()])
        hits += int((~correct).sum())
        tally = strategy.tally(Outcome(index, correct, context=strategy.context(index)))
        if tally is not None:
            strategy.update(tally, steps=1.0)
        damaged[index.numpy()] = False
    return hits / (n_steps * n_draw)
