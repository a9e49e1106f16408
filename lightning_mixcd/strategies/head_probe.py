"""Rehearse what the current head gets wrong on base features that were brought up to date."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.estimators import DecayedBeta
from lightning_mixcd.functional.collateral import beta_mean, bin_counts
from lightning_mixcd.functional.sampling import choose_weighted
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._binned import NEVER, Shuffles, some_correct
from lightning_mixcd.strategies._drift import DriftModels
from lightning_mixcd.strategies._head import Head
from lightning_mixcd.strategies._needs import column_of
from lightning_mixcd.strategies.base import Strategy
from lightning_mixcd.types import Outcome

__all__ = ["EDGES", "HeadProbe"]

# Between bins of predicted margins, in nats.
EDGES = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 8.0)
N_BINS = len(EDGES) + 1
RIDGE = 1.0
BASIS_SAMPLES = 4096
CHUNK = 4096


class HeadProbe(Strategy):
    r"""Draw samples by the damage that the current head predicts for them, without any forward of the model.

    The ledger holds the base model's features of each sample, the input of the head. While the network below
    the head is trained, features drift; rehearsed samples show by how much, and a regression on the base
    features says so for all others. Of some random base-correct candidates, features are brought up to date
    in this way and pushed through the current head. The margin by which the label wins decides a candidate's
    bin, and how many of the samples rehearsed from a bin turned out to be damaged, $\hat\alpha$, decides its
    weight, $\hat\alpha^s$. So predictions count for what they have been worth: with useless ones, all bins
    have the same rate, and draws are uniform over base-correct samples.

    Args:
        candidates_per_row: Candidates per sample drawn, at least 1, which is uniform rehearsal.
        sharpness: Exponent s of the rate, not negative; 0 is uniform rehearsal.
        uniform_share: Share of each draw that is uniform over the base-correct samples, in [0, 1]. It shows
            the true rate of damage.
        importance: Exponent in [0, 1] of importance weights on the loss of rehearsed samples: 0 for none, 1
            for the objective of uniform rehearsal.
        rank: Directions of the features that drift may depend on, at least 1.
        halflife_steps: Optimizer steps after which what was seen counts half, above 0.

    Raises:
        ValueError: If an argument is out of range, or the ledger has no correct sample.
        LedgerError: If the ledger has no features or labels.

    Example:
        >>> ledger = Ledger.from_arrays(
        ...     correct=[True] * 4, loss=[0.1] * 4, label=[0, 0, 1, 1], features=10 * np.eye(2)[[0, 0, 1, 1]]
        ... )
        >>> strategy, head = HeadProbe(), nn.Linear(2, 2)
        >>> _ = nn.init.zeros_(head.weight), head.weight.data[0].fill_(1), nn.init.zeros_(head.bias)
        >>> strategy.attach(head)  # as the callback does; this one takes everything for class 0
        >>> strategy.setup(4, ledger, seed=0)
        >>> strategy.margins(np.arange(4), strategy.signal())
        tensor([ 10.,  10., -10., -10.])
    """

    needs_ledger = True
    needs_columns = ("features",)
    needs_features = True

    def __init__(
        self,
        *,
        candidates_per_row: int = 64,
        sharpness: float = 2.0,
        uniform_share: float = 0.1,
        importance: float = 0.0,
        rank: int = 64,
        halflife_steps: float = 100.0,
    ) -> None:
        for name, count in (("candidates_per_row", candidates_per_row), ("rank", rank)):
            if count < 1:
                raise ValueError(f"`{name}` must be at least 1, got {count}. The default is 64.")
        for name, share in (("uniform_share", uniform_share), ("importance", importance)):
            if not 0 <= share <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {share}. The defaults are 0.1 and 0.")
        if not 0 <= sharpness < float("inf"):
            raise ValueError(
                f"`sharpness` must be a finite number from 0, got {sharpness}. The default is 2."
            )
        if not halflife_steps > 0:
            raise ValueError(f"`halflife_steps` must be above 0, got {halflife_steps}. The default is 100.")
        self.candidates_per_row, self.sharpness = candidates_per_row, sharpness
        self.uniform_share, self.importance = uniform_share, importance
        self.rank, self.halflife_steps = rank, halflife_steps
        self._head: Head | None = None

    @override
    def attach(self, head: nn.Module) -> None:
        self._head = Head(head)

    def _attached(self) -> Head:
        if self._head is None:
            raise ValueError(
                "`attach` must be called with the head before `setup`, as `RehearsalCallback` does. Call "
                "`strategy.attach(module.classifier)`."
            )
        return self._head

    # A head that takes features of another width says so in words of its own.
    def _check_width(self) -> None:
        try:
            self.margins(np.zeros(1, dtype=np.int64), self.signal().cpu())
        except RuntimeError as error:
            raise ValueError(
                f"`features` of the ledger must be what the head takes, got vectors of {self._drift.d} "
                f"numbers ({error}). Name the submodule of which they were recorded, Readout(features=...)."
            ) from error

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        ledger = some_correct(ledger)
        self._features = column_of(ledger, "features", self, ndim=2)
        self._label = column_of(ledger, "label", self)
        correct = np.flatnonzero(ledger.correct)
        self.n_available = len(correct)
        self._shuffles = Shuffles(np.where(ledger.correct, 0, NEVER).astype(np.int8), 1, seed=seed)
        sample = self._base(correct[:: -(-len(correct) // BASIS_SAMPLES)])
        self._drift = DriftModels(sample, self.rank, ridge=RIDGE, halflife_steps=self.halflife_steps)
        # Bins of samples drawn by weight, then the same of those drawn uniformly.
        self._rates = DecayedBeta(self.halflife_steps)
        self._rates.reset(2 * N_BINS)
        self._check_width()
        # Of each sample as it was drawn last.
        self._bin = np.zeros(n_pool, dtype=np.uint8)
        self._weight = np.ones(n_pool if self.importance else 0, dtype=np.float16)

    @override
    def signal(self) -> Tensor:
        parameters = self._attached().parameters()
        # Before the first lesson, what was learnt is on the host.
        learnt = self._drift.fits.device
        device = parameters.device if learnt.type == "cpu" else learnt
        parts = (self._calibrated(), self._drift.best().flatten(), parameters)
        return torch.cat([part.to(device) for part in parts])

    def _calibrated(self) -> Tensor:
        damaged, seen = self._rates.damaged.view(2, N_BINS), self._rates.seen.view(2, N_BINS)
        return beta_mean(damaged.sum(dim=0), seen.sum(dim=0))

    def margins(self, index: npt.NDArray[np.int64], signal: Tensor) -> Tensor:
        """Predict by how much the logit of the label exceeds all others.

        Args:
            index: Pool indices, `(n,)`.
            signal: What `signal` returned, on the CPU.

        Returns:
            Margins in nats, negative for samples that are predicted wrong, `(n,)`.
        """
        _, fit, parameters = signal.tensor_split([N_BINS, N_BINS + self._drift.size])
        found = []
        for start in range(0, len(index), CHUNK):
            rows = index[start : start + CHUNK]
            logits = self._attached()(self._drift.corrected(self._base(rows), fit), parameters)
            label = torch.from_numpy(self._label[rows])[:, None]
            others = logits.scatter(1, label, -torch.inf)
            found.append((logits.gather(1, label) - others.amax(dim=1, keepdim=True)).flatten())
        return torch.cat(found)

    def _base(self, index: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(self._features[index]).float()

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.select_round(1, n, signal=signal, generator=generator)[0]

    @override
    def select_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor:
        assert signal is not None  # noqa: S101 -- `signal` above never returns None
        m = min(n * self.candidates_per_row, self.n_available)
        candidates = self._shuffles.fill(np.zeros((n_draws, m), dtype=np.int64))
        bins = torch.bucketize(self.margins(candidates.ravel(), signal), torch.tensor(EDGES)).view(n_draws, m)
        weights = signal[:N_BINS].double()[bins] ** self.sharpness
        # Candidates come in random order, so the first ones are uniform draws.
        n_uniform = (n * self.uniform_share + torch.rand(n_draws, 1, generator=generator)).floor()
        uniform = torch.arange(m) < n_uniform
        chosen = choose_weighted(weights.masked_fill(uniform, torch.inf), n, generator=generator)
        index = torch.from_numpy(candidates).gather(1, chosen)
        self._bin[index.numpy()] = (bins + N_BINS * uniform).gather(1, chosen).numpy()
        if self.importance:
            share = (1 - self.uniform_share) * weights / weights.sum(dim=1, keepdim=True)
            loss_weight = (share + self.uniform_share / m).gather(1, chosen) ** -self.importance
            self._weight[index.numpy()] = (loss_weight / loss_weight.mean(dim=1, keepdim=True)).numpy()
        return index

    @override
    def context(self, index: Tensor) -> Mapping[str, Tensor]:
        rows = index.numpy()
        found = {"bin": self._bin[rows].astype(np.int64), "base_features": self._features[rows]}
        if self.importance:
            found["weight"] = self._weight[rows].astype(np.float32)
        return {name: torch.from_numpy(values) for name, values in found.items()}

    @override
    def tally(self, outcome: Outcome) -> Tensor:
        counts = bin_counts(outcome.context["bin"], ~outcome.correct, 2 * N_BINS)
        base = outcome.context["base_features"].float()
        # A lesson on no rows comes without features.
        now = base if outcome.features is None else outcome.features
        return torch.cat([counts.flatten(), self._drift.tally(base, now, self._attached())])

    @override
    def update(self, tally: Tensor, *, steps: float) -> None:
        counts, drift = tally.tensor_split([4 * N_BINS])
        damaged, seen = counts.view(2, 2 * N_BINS)
        self._rates.update(damaged, seen, steps=steps)
        self._drift.update(drift, steps=steps)

    @override
    def metrics(self) -> Mapping[str, Tensor]:
        uniform = slice(N_BINS, None)
        damaged, seen = self._rates.damaged[uniform].sum(), self._rates.seen[uniform].sum()
        found = {"damage_rate": beta_mean(damaged, seen)} if self.uniform_share else {}
        found |= {"drift_error": self._drift.error(), "drift_model": self._drift.errors.argmin().float()}
        return found | {f"rate/{k:02d}": rate for k, rate in enumerate(self._calibrated().unbind())}

    @override
    def draw_state(self) -> Tensor:
        return torch.from_numpy(self._shuffles.position.copy())

    @override
    def load_draw_state(self, state: Tensor) -> None:
        self._shuffles.position = state.numpy().copy()

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self._rates.state_dict() | self._drift.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._rates.load_state_dict({name: state[name] for name in self._rates.STATE})
        self._drift.load_state_dict(state)
