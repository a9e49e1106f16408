"""Rehearse what the current head gets wrong on base features that were brought up to date."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.functional.sampling import choose_weighted
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions import Partition
from lightning_mixcd.strategies._calibration import margin_bins
from lightning_mixcd.strategies._needs import given
from lightning_mixcd.strategies._probing import Probing

__all__ = ["HeadProbe"]

TINY = 1e-300


class HeadProbe(Probing):
    r"""Draw samples by the damage that the current head predicts for them, without any forward of the model.

    The ledger holds the base model's features of each sample, the input of the head. While the network below
    the head is trained, features drift; rehearsed samples show by how much, and a regression on the base
    features says so for all others. Of some random base-correct candidates, features are brought up to date
    in this way and pushed through the current head. The margin by which the label wins, ranked among those of
    the other candidates, decides a candidate's bin, and how many of the samples rehearsed from a bin turned
    out to be damaged, $\hat\alpha$, decides its weight, $\hat\alpha^s$. So predictions count for what they
    have been worth: with useless ones, all bins have the same rate, and draws are uniform over base-correct
    samples; or, given a partition, draws are those of mix-cd.

    Args:
        partition: What else tells damaged samples apart, as for `MixCD`; None for nothing.
        candidates_per_row: Candidates per sample drawn, at least 1, which is uniform rehearsal.
        sharpness: Exponent s of the rate, not negative; 0 is uniform rehearsal.
        uniform_share: Share of each draw that is uniform over the base-correct samples, in [0, 1]. It shows
            the true rate of damage.
        importance: Exponent in [0, 1] of importance weights on the loss of rehearsed samples, the inverse of
            how probable it was to draw them: 0 for none, 1 for the objective of uniform rehearsal. Weights of
            a draw have a mean of 1 in the long run, not in each.
        rank: Directions of the features that drift may depend on, at least 1.
        halflife_steps: Optimizer steps after which what was seen counts half, above 0.

    Raises:
        TypeError: If `partition` is something else.
        ValueError: If an argument is out of range, or the ledger has no correct sample.
        LedgerError: If the ledger has no features or labels.

    Example:
        >>> ledger = Ledger.from_arrays(
        ...     correct=[True] * 4, loss=[0.1] * 4, label=[0, 0, 1, 1], features=10 * np.eye(2)[[0, 0, 1, 1]]
        ... )
        >>> strategy, head = HeadProbe(), torch.nn.Linear(2, 2)
        >>> _ = head.weight.data.zero_()[0].fill_(1), head.bias.data.zero_()
        >>> strategy.attach(head)  # as the callback does; this one takes everything for class 0
        >>> strategy.setup(4, ledger, seed=0)
        >>> strategy.margins(np.arange(4), strategy.signal())
        tensor([ 10.,  10., -10., -10.])
    """

    def __init__(
        self,
        *,
        partition: Partition | None = None,
        candidates_per_row: int = 64,
        sharpness: float = 2.0,
        uniform_share: float = 0.1,
        importance: float = 0.0,
        rank: int = 64,
        halflife_steps: float = 100.0,
    ) -> None:
        super().__init__(
            candidates_per_row=candidates_per_row,
            uniform_share=uniform_share,
            rank=rank,
            halflife_steps=halflife_steps,
        )
        if not isinstance(partition, Partition | None):
            raise TypeError(f"`partition` must be a `Partition`, got {partition!r}. The default is None.")
        check_range("[0, 1]", "The default is 0.", importance=importance)
        check_range("[0, inf)", "The default is 2.", sharpness=sharpness)
        self.partition, self.sharpness, self.importance = partition, sharpness, importance
        if partition is not None:
            self.needs_columns = (*self.needs_columns, *partition.needs_columns)

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        super().setup(n_pool, ledger, seed=seed)
        # Of each sample as it was drawn last.
        self._weight = np.ones(n_pool if self.importance else 0, dtype=np.float32)

    @override
    def select_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        signal, candidates = given(signal), self.candidates(n_draws, n)
        margins = self.margins(candidates.ravel(), signal).view(candidates.shape)
        bins, parts = margin_bins(margins), torch.from_numpy(self._part[candidates])
        rates = self._calibration.look_up(signal, bins, parts).double()
        # A rate may be too small for a high power.
        weights = (rates / rates.amax(dim=1, keepdim=True)).pow(self.sharpness).clamp(min=TINY)
        # Candidates come in random order, so the first ones are uniform draws.
        uniform = torch.arange(candidates.shape[1]) < self.n_uniform(
            n_draws, n, self.uniform_share, generator
        )
        chosen, times = choose_weighted(weights.masked_fill(uniform, torch.inf), n, generator=generator)
        index = torch.from_numpy(candidates).gather(1, chosen)
        self.remember(index, *(known.gather(1, chosen) for known in (margins, bins, uniform)))
        if self.importance:
            by_any, by_weight = _chances(weights, uniform, times, self.uniform_share)
            chance = by_any.where(uniform, by_weight).gather(1, chosen)
            # The mean weight of draws like this one.
            mean = by_any.pow(1 - self.importance).sum(dim=1, keepdim=True) / n
            self._weight[index.numpy()] = (chance**-self.importance / mean).numpy()
        return index

    @override
    def context(self, index: Tensor) -> Mapping[str, Tensor]:
        found = super().context(index)
        if self.importance:
            found = {**found, "weight": torch.from_numpy(self._weight[index.numpy()])}
        return found


# How probable it is to draw each candidate, and how probable it was if it was drawn by weight.
def _chances(weights: Tensor, uniform: Tensor, times: Tensor, share: float) -> tuple[Tensor, Tensor]:
    n, m, k = times.shape[1] - 1, weights.shape[1], uniform.double().sum(dim=1, keepdim=True)
    earlier, later = (-torch.expm1(-weights * time) for time in (times[:, -2:-1], times[:, -1:]))
    # In place of a uniform one another would have been, perhaps one of those that were drawn by weight.
    instead = earlier.lerp(later, (n - k) / (m - k).clamp(min=1))
    # How many are uniform is chance too. Where none is, what is hardly ever drawn by weight would weigh most.
    by_chance = n * share / m
    by_any, by_weight = (by_chance + (1 - by_chance) * chance for chance in (instead, later))
    return by_any, by_weight
