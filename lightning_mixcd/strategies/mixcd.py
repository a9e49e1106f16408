"""Rehearse where the model is being damaged."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.estimators import DecayedBeta, Estimator
from lightning_mixcd.functional._chunks import Bins, bin_dtype
from lightning_mixcd.functional.collateral import Rule, bin_counts, bin_probabilities
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions import ByLossQuantile, Partition
from lightning_mixcd.strategies._binned import NEVER, BinnedStrategy, some_correct
from lightning_mixcd.strategies._needs import given
from lightning_mixcd.types import Outcome

__all__ = ["MixCD"]

MOST_LOGGED_BINS = 64


class MixCD(BinnedStrategy):
    r"""Draw bins in proportion to the collateral damage that rehearsal finds in them.

    Each step, with base-correct samples partitioned into bins of sizes $n_k$ and estimated damage rates
    $\hat\alpha_k$: choose bins with probability $q_k \propto n_k \hat\alpha_k$ (above a uniform floor), then
    samples uniformly within the bin; train on them; whichever of them that same forward pass got wrong is
    damaged, and updates $\hat\alpha$. No sample is ever forwarded only to be looked at.

    Of `Streams`, each is a bin, and there is no partition.

    Bai et al., arXiv:2402.08096. What its text leaves open is an option here; see the card.

    Args:
        partition: Which bin each sample is in; `ByLossQuantile(10)` if None.
        estimator: From damage counts to rates; `DecayedBeta()` if None.
        rule: `"density"` weighs a bin by its size times its rate, `"rate"` by its rate alone.
        floor: Share of each draw that stays uniform over the base-correct samples, in [0, 1].
        wrong_share: Share of each draw taken from base-wrong samples, which cannot be damaged, in [0, 1).

    Raises:
        TypeError: If `partition` or `estimator` is something else.
        ValueError: If an argument is out of range, or the ledger has no correct sample.

    Example:
        >>> from lightning_mixcd.partitions import ByLabel
        >>> ledger = Ledger.from_arrays(correct=[True] * 4, loss=[0.1] * 4, label=[0, 0, 1, 1])
        >>> strategy = MixCD(partition=ByLabel(), floor=0.0)
        >>> strategy.setup(4, ledger, seed=0)
        >>> bins, correct = torch.tensor([0, 1]), torch.tensor([True, False])
        >>> strategy.update(bin_counts(bins, ~correct, 2), steps=1)
        >>> strategy.probabilities(strategy.signal())  # rates 1/3 and 2/3
        tensor([0.3333, 0.6667], dtype=torch.float64)
    """

    needs_ledger = True

    def __init__(
        self,
        *,
        partition: Partition | None = None,
        estimator: Estimator | None = None,
        rule: Rule = "density",
        floor: float = 0.05,
        wrong_share: float = 0.0,
    ) -> None:
        if rule not in ("density", "rate"):
            raise ValueError(f'`rule` must be "density" or "rate", got {rule!r}.')
        check_range("[0, 1]", "The default is 0.05.", floor=floor)
        check_range("[0, 1)", "The default is 0.", wrong_share=wrong_share)
        self.partition = ByLossQuantile(10) if partition is None else partition
        self._partition_given = partition is not None
        self.estimator = DecayedBeta() if estimator is None else estimator
        if not isinstance(self.partition, Partition):
            raise TypeError(
                f"`partition` must be a `Partition`, got {partition!r}. Pass for example ByLabel()."
            )
        if not isinstance(self.estimator, Estimator):
            raise TypeError(
                f"`estimator` must be an `Estimator`, got {estimator!r}. Pass for example DecayedBeta()."
            )
        self.rule, self.floor, self.wrong_share = rule, floor, wrong_share
        self.needs_columns = self.partition.needs_columns

    @override
    def assign(self, n_pool: int, ledger: Ledger | None) -> tuple[Bins, int]:
        ledger = some_correct(ledger)
        bins = self.partition.bins(ledger)
        self.n_bins = int(bins.max()) + 1
        self.estimator.reset(self.n_bins)
        keep_wrong = self.wrong_share > 0
        n_bins = self.n_bins + keep_wrong
        self._rows = torch.zeros(n_bins, dtype=torch.int64)
        wrong = bin_dtype(n_bins).type(self.n_bins if keep_wrong else NEVER)
        return np.where(ledger.correct, bins, wrong), n_bins

    @override
    def setup_streams(self, sizes: Tensor, *, seed: int) -> None:
        if self._partition_given or self.wrong_share > 0:
            raise ValueError(
                "`partition` and `wrong_share` must be left out for `Streams`, got "
                f"MixCD(partition={self.partition!r}, wrong_share={self.wrong_share}). Each stream is a bin, "
                "and gives base-correct samples only."
            )
        super().setup_streams(sizes, seed=seed)
        self.n_bins = len(sizes)
        self._rows = torch.zeros(self.n_bins, dtype=torch.int64)
        self.estimator.reset(self.n_bins)

    @override
    def probabilities(self, signal: Tensor | None) -> Tensor:
        sizes = self.sizes[: self.n_bins]
        q = bin_probabilities(given(signal), sizes, rule=self.rule, floor=self.floor)
        if len(self.sizes) > self.n_bins:
            q = torch.cat([q * (1 - self.wrong_share), q.new_tensor([self.wrong_share])])
        return q

    @override
    def context(self, index: Tensor) -> Mapping[str, Tensor]:
        return {"bin": self.bins_of(index)}

    @override
    def tally(self, outcome: Outcome) -> Tensor:
        # One column more than bins, for base-wrong samples, of which only the number matters.
        return bin_counts(outcome.context["bin"], ~outcome.correct, self.n_bins + 1)

    @override
    def update(self, tally: Tensor, *, steps: float) -> None:
        self.estimator.update(tally[0, : self.n_bins], tally[1, : self.n_bins], steps=steps)
        self._rows = self._rows.to(tally.device) + tally[1, : len(self._rows)].long()

    @override
    def signal(self) -> Tensor:
        return self.estimator.rates()

    @override
    def metrics(self) -> Mapping[str, Tensor]:
        rates = self.estimator.rates()
        share = self.sizes[: self.n_bins] / self.sizes[: self.n_bins].sum()
        pool = {"damage_rate": (rates * share.to(rates)).sum()}
        if self.n_bins > MOST_LOGGED_BINS:
            return pool
        pool |= {f"rate/{k:02d}": rate for k, rate in enumerate(rates.unbind())}
        return pool | {f"rows/{k:02d}": rows for k, rows in enumerate(self._rows.float().unbind())}

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {**self.estimator.state_dict(), "rows": self._rows}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.estimator.load_state_dict(state)
        self._rows = state["rows"]
