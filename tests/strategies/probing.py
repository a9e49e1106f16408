"""A world in which predictions from features can be right, or useless."""

import numpy as np
import torch
from torch import nn

from lightning_mixcd import Ledger
from lightning_mixcd.strategies import HeadProbe
from lightning_mixcd.types import Outcome

__all__ = ["C", "D", "N", "World", "generator", "noise_probe", "normal", "plain_bins", "plain_margins"]

N, D, C = 400, 6, 4


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class World:
    """A pool that lives in feature space: the backbone moves it, the head judges it."""

    def __init__(self, *, kind=HeadProbe, seed=0, **settings):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.head = nn.Linear(D, C)
        self.base = (2 * normal(N, D, seed=seed)).half().float()
        self.label = self.head(self.base).argmax(1)
        self.label[::10] = (self.label[::10] + 1) % C
        self.correct = self.head(self.base).argmax(1) == self.label
        self.features = self.base
        # What is nearest to being wrong will be damaged most.
        self.genre = torch.tensor([0, 1, 2]).repeat_interleave(N // 3 + 1)[
            plain_margins(self).argsort().argsort()
        ]
        self.ledger = Ledger.from_arrays(
            self.correct, torch.ones(N), label=self.label, features=self.base.half(), genre=self.genre
        )
        self.probe = kind(**settings)
        self.probe.attach(self.head)
        self.probe.setup(N, self.ledger, seed=seed)

    def finetune(self, *, drift=True):
        """Move the head, and all features by one linear map."""
        with torch.no_grad():
            self.head.weight += 0.12 * normal(C, D, seed=7)
        if drift:
            self.features = self.base + 0.06 * self.base @ normal(D, D, seed=8) + 0.2

    @property
    def damaged(self):
        return self.correct & (self.head(self.features).argmax(1) != self.label)

    def draw(self, n=8, seed=0):
        return self.probe.draw(n, signal=self.probe.signal(), generator=generator(seed))

    def lesson(self, n=8, seed=0):
        """Rehearse some samples without training on them; return these."""
        index = self.draw(n, seed)
        right = self.head(self.features[index]).argmax(1) == self.label[index]
        outcome = Outcome(index, right, context=self.probe.context(index), features=self.features[index])
        self.probe.update(self.probe.tally(outcome), steps=1)
        return index

    def lesson_in_bins(self, twin, seed=0):
        """The samples that were rehearsed, and the bins that they were drawn from."""
        candidates = twin.probe.candidates(1, 8)[0]
        bins = plain_bins(self.margins()[candidates].tolist())
        index = self.lesson(seed=seed).tolist()
        return [(i, bins[candidates.tolist().index(i)]) for i in index]

    def margins(self):
        return self.probe.margins(np.arange(N), self.probe.signal())


@torch.no_grad()
def plain_margins(world):
    return torch.tensor([
        float(z[y] - max(z[k] for k in range(C) if k != y))
        for z, y in zip(world.head(world.features), world.label, strict=True)
    ])


def plain_bins(margins):
    """The bin of each candidate of a draw, by how many of them have less margin."""
    edges = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4)
    less = [sum(other < margin for other in margins) for margin in margins]
    return [sum((n + 0.5) / len(margins) > edge for edge in edges) for n in less]


def noise_probe(**settings):
    """Features and labels in its ledger say nothing, so that nothing it predicts is true."""
    world = World(**settings)
    world.ledger = Ledger.from_arrays(
        world.correct,
        torch.ones(N),
        label=torch.randint(C, (N,), generator=generator()),
        features=2 * normal(N, D, seed=99),
        genre=world.genre,
    )
    world.probe.setup(N, world.ledger, seed=0)
    return world
