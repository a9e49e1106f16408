"""Rehearse what really is damaged, at a price that only a measurement pays."""

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_counts, check_range
from lightning_mixcd.functional.sampling import choose_bins
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._binned import OrderedStrategy, Shuffles, one_bin, some_correct
from lightning_mixcd.strategies._needs import given
from lightning_mixcd.strategies.base import PoolProbe

__all__ = ["Oracle"]


class Oracle(OrderedStrategy):
    """Draw from the samples that a full pass over the pool shows to be damaged.

    For measuring only: it marks how far better selection could go. Every refresh costs one forward per
    base-correct sample. Rehearsing damaged samples only can do harm, because the rehearsed set then no longer
    stands for the pool; the upper mark is the best of several `uniform_share`s.

    Args:
        every_n_steps: Optimizer steps between two full passes, at least 1.
        uniform_share: Share of each draw that is uniform over the base-correct samples, in [0, 1].

    Raises:
        ValueError: If an argument is out of range, or the ledger has no correct sample.

    Example:
        >>> strategy = Oracle(every_n_steps=20, uniform_share=0.5)
        >>> strategy.refresh_every_n_steps
        20
    """

    needs_ledger = True
    _order: Shuffles

    def __init__(self, *, every_n_steps: int = 20, uniform_share: float = 0.5) -> None:
        check_counts("The default is 20.", every_n_steps=every_n_steps)
        check_range("[0, 1]", "The default is 0.5.", uniform_share=uniform_share)
        self.refresh_every_n_steps = every_n_steps
        self.uniform_share = uniform_share

    @property
    def every_n_steps(self) -> int | None:
        """Optimizer steps between two full passes."""
        return self.refresh_every_n_steps

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        correct = np.asarray(some_correct(ledger).correct)
        self._correct = torch.from_numpy(correct.nonzero()[0])
        self._order = Shuffles(one_bin(n_pool, correct), 1, seed=seed)
        self.n_available = len(self._correct)
        self._damaged = torch.zeros(n_pool, dtype=torch.bool)

    @override
    def refresh(self, probe: PoolProbe) -> None:
        damaged = torch.zeros_like(self._damaged)
        damaged[self._correct] = ~probe.correct(self._correct).cpu()
        self._damaged = damaged

    @override
    def signal(self) -> Tensor:
        return self._damaged

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        damaged = given(signal).nonzero().flatten()
        share = torch.tensor([1 - self.uniform_share, self.uniform_share], dtype=torch.float64)
        room = torch.tensor([len(damaged), self.n_available])
        n_damaged = int((choose_bins(share, room, n, generator=generator) == 0).sum())
        picked = damaged[torch.randperm(len(damaged), generator=generator)[:n_damaged]]
        chosen = dict.fromkeys(picked.tolist())
        while len(chosen) < n:
            chosen.update(dict.fromkeys(self._order.take(0, n - len(chosen))))
        return torch.tensor(list(chosen))[torch.randperm(n, generator=generator)]

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {"damaged": self._damaged}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._damaged = state["damaged"]
