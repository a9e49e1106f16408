"""Rehearse the few whose predicted gradients stand for all candidates."""

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.functional.matching_pursuit import matching_pursuit
from lightning_mixcd.strategies._calibration import margin_bins
from lightning_mixcd.strategies._head import margins_of
from lightning_mixcd.strategies._last_layer import LastLayerGradients, has_bias
from lightning_mixcd.strategies._needs import given
from lightning_mixcd.strategies._probing import Array, Probing

__all__ = ["ProbeMatching"]


class ProbeMatching(Probing):
    """Rehearse candidates whose last-layer gradients together come nearest to the mean over all candidates.

    `GradientMatching` without a look at the model: features and logits of the candidates are predicted as
    `HeadProbe` does. How far draws concentrate on damaged samples is not set but follows: as far as these
    make up the gradient of the pool, and as far as predictions can be trusted. Trust is by how much less is
    damaged of the candidates with more than of those with less predicted margin; that share of a draw is
    matched, the rest is uniform over base-correct samples.

    Args:
        candidates_per_row: Candidates per sample drawn, at least 1, which is uniform rehearsal.
        uniform_share: Share of each draw that is uniform in any case, in [0, 1]. It shows the true rate of
            damage.
        rank: Directions of the features that drift may depend on, at least 1.
        halflife_steps: Optimizer steps after which what was seen counts half, above 0.

    Raises:
        ValueError: If an argument is out of range, the head is not one linear layer, or the ledger has no
            correct sample.
        LedgerError: If the ledger has no features or labels.

    Example:
        >>> ProbeMatching().candidates_per_row
        5
    """

    _bias = True

    @override
    def attach(self, head: nn.Module) -> None:
        self._bias = has_bias(head, self)
        super().attach(head)

    @override
    def select_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        signal = given(signal)
        trust = float(signal[self._calibration.n_rates])
        share = 1 - (1 - self.uniform_share) * trust
        n_uniform = self.n_uniform(n_draws, n, share, generator).long().flatten().tolist()
        draws = zip(self.candidates(n_draws, n), n_uniform, strict=True)
        return torch.stack([self._matched(candidates, n, first, signal) for candidates, first in draws])

    def _matched(self, candidates: Array, n: int, n_uniform: int, signal: Tensor) -> Tensor:
        features, logits = self.predicted(candidates, signal)
        label = self.labels(candidates)
        found = LastLayerGradients.of(logits, label, features, bias=self._bias)
        products = found.products(found)
        # Candidates come in random order, so the first ones are a uniform draw.
        rest = matching_pursuit(
            products[n_uniform:, n_uniform:], products.mean(dim=1)[n_uniform:], n - n_uniform
        )
        chosen = torch.cat([torch.arange(n_uniform), rest + n_uniform])
        index = torch.from_numpy(candidates)[chosen]
        margins = margins_of(logits, label)
        self.remember(index, margins[chosen], margin_bins(margins)[chosen], torch.arange(n) < n_uniform)
        return index
