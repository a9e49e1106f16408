"""Strategies that predict, from recorded features, what the current model would answer."""

from abc import abstractmethod
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.errors import check_counts, check_range
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions import Partition
from lightning_mixcd.strategies._binned import OrderedStrategy, Shuffles, one_bin, some_correct
from lightning_mixcd.strategies._calibration import Calibration
from lightning_mixcd.strategies._drift import LARGEST, DriftModels
from lightning_mixcd.strategies._head import Head, margins_of
from lightning_mixcd.strategies._needs import column_of
from lightning_mixcd.types import Outcome

__all__ = ["Array", "Probing"]

RIDGE = 10.0
BASIS_SAMPLES = 4096
CHUNK = 4096

Array = npt.NDArray[np.int64]


class Probing(OrderedStrategy):
    """Learns how features drift, and runs the current head on features brought up to date.

    A subclass chooses among candidates, which are random base-correct samples, in `select_round`.

    Args:
        candidates_per_row: Candidates per sample drawn, at least 1.
        uniform_share: Share of each draw that is uniform over the base-correct samples, in [0, 1].
        rank: Directions of the features that drift may depend on, at least 1.
        halflife_steps: Optimizer steps after which what was seen counts half, above 0.
    """

    needs_ledger = True
    needs_columns: tuple[str, ...] = ("label", "features")
    needs_features = True
    partition: Partition | None = None
    _order: Shuffles

    def __init__(
        self,
        *,
        candidates_per_row: int = 5,
        uniform_share: float = 0.1,
        rank: int = 64,
        halflife_steps: float = 100.0,
    ) -> None:
        check_counts("Leave it out for the default.", candidates_per_row=candidates_per_row, rank=rank)
        check_range("[0, 1]", "The default is 0.1.", uniform_share=uniform_share)
        check_range("(0, inf]", "The default is 100.", halflife_steps=halflife_steps)
        self.candidates_per_row, self.uniform_share = candidates_per_row, uniform_share
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

    # A head that takes other features, or more than these, says so in words of its own.
    def _check_width(self) -> None:
        try:
            self.margins(np.zeros(1, dtype=np.int64), self.signal().cpu())
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                "`features` of the ledger must be what the head takes, and all of it, got vectors of "
                f"{self._drift.d} numbers ({error}). Name the submodule of which they were recorded, a "
                "function of them alone, Readout(features=...), or use `MixCD`, which needs no head."
            ) from error

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        ledger = some_correct(ledger)
        self._features = column_of(ledger, "features", self, ndim=2)
        basis = ledger.basis("features")
        self._basis = None if basis is None else torch.from_numpy(np.array(basis))
        self._label = column_of(ledger, "label", self)
        correct = np.flatnonzero(ledger.correct)
        self.n_available = len(correct)
        self._order = Shuffles(one_bin(n_pool, ledger.correct), 1, seed=seed)
        sample = self._base(correct[:: -(-len(correct) // BASIS_SAMPLES)])
        self._drift = DriftModels(sample, self.rank, ridge=RIDGE, halflife_steps=self.halflife_steps)
        one_part = np.broadcast_to(np.int8(0), (n_pool,))
        self._part = one_part if self.partition is None else self.partition.bins(ledger)
        self._calibration = Calibration(int(self._part.max()) + 1, self.halflife_steps)
        self._check_width()
        # Of each sample as it was drawn last.
        self._place = np.zeros(n_pool, dtype=np.min_scalar_type(2 * self._calibration.n_rates))
        self._margin = np.zeros(n_pool, dtype=np.float16)

    @override
    def signal(self) -> Tensor:
        parameters = self._attached().parameters()
        # Before the first lesson, what was learnt is on the host.
        learnt = self._drift.fits.device
        device = parameters.device if learnt.type == "cpu" else learnt
        parts = (
            self._calibration.rates(),
            self._calibration.trust()[None],
            self._drift.best().flatten(),
            parameters,
        )
        return torch.cat([part.to(device) for part in parts])

    def predicted(self, index: Array, signal: Tensor) -> tuple[Tensor, Tensor]:
        """Predict what the forward of these samples would show.

        Args:
            index: Pool indices, `(n,)`.
            signal: What `signal` returned, on the CPU.

        Returns:
            Features, `(n, d)`, and logits, `(n, C)`.
        """
        n_first = self._calibration.n_rates + 1
        _, fit, parameters = signal.tensor_split([n_first, n_first + self._drift.size])
        features = self._drift.corrected(self._base(index), fit)
        return features, self._attached()(features, parameters)

    def margins(self, index: Array, signal: Tensor) -> Tensor:
        """Predict by how much the logit of the label exceeds all others.

        Args:
            index: Pool indices, `(n,)`.
            signal: What `signal` returned, on the CPU.

        Returns:
            Margins in nats, negative for samples that are predicted wrong, `(n,)`.
        """
        parts = [index[start : start + CHUNK] for start in range(0, len(index), CHUNK)]
        return torch.cat([margins_of(self.predicted(part, signal)[1], self.labels(part)) for part in parts])

    def labels(self, index: Array) -> Tensor:
        """Return the labels of these samples, int64, `(n,)`."""
        return torch.from_numpy(self._label[index]).long()

    def candidates(self, n_draws: int, n: int) -> Array:
        """Return the next candidates of some draws, in random order, distinct within each, `(D, m)`."""
        m = min(n * self.candidates_per_row, self.n_available)
        return self._order.fill(np.zeros((n_draws, m), dtype=np.int64))

    @staticmethod
    def n_uniform(n_draws: int, n: int, share: float, generator: torch.Generator) -> Tensor:
        """Return how many samples of each draw are to be uniform, by chance where it comes out uneven."""
        return (n * share + torch.rand(n_draws, 1, generator=generator)).floor()

    def remember(self, index: Tensor, margins: Tensor, bins: Tensor, uniform: Tensor) -> None:
        """Keep how samples were drawn, until they are rehearsed.

        Args:
            index: Pool indices, of any shape.
            margins: Their predicted margins, in that shape.
            bins: The bins of these among the candidates, likewise.
            uniform: Whether they were drawn uniformly, likewise.
        """
        rows = index.numpy()
        places = self._calibration.place(bins, torch.from_numpy(self._part[rows]), uniform)
        self._place[rows] = places.numpy()
        self._margin[rows] = margins.clamp(-LARGEST, LARGEST).numpy()

    def _base(self, index: Array) -> Tensor:
        rows = torch.from_numpy(self._features[index]).float()
        # One that overflowed must not spoil what is learnt about all.
        rows = rows.nan_to_num(posinf=LARGEST, neginf=-LARGEST)
        return rows if self._basis is None else rows @ self._basis

    @override
    @abstractmethod
    def select_round(
        self, n_draws: int, n: int, *, signal: Tensor | None, generator: torch.Generator
    ) -> Tensor: ...

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        return self.select_round(1, n, signal=signal, generator=generator)[0]

    @override
    def context(self, index: Tensor) -> Mapping[str, Tensor]:
        rows = index.numpy()
        found = {
            "place": self._place[rows].astype(np.int64),
            "margin": self._margin[rows],
        }
        known = {name: torch.from_numpy(values) for name, values in found.items()}
        return known | {"base_features": self._base(rows), "label": self.labels(rows)}

    @override
    def tally(self, outcome: Outcome) -> Tensor:
        context = outcome.context
        counts = self._calibration.tally(context["place"], ~outcome.correct, context["margin"])
        base = context["base_features"]
        # A lesson on no rows comes without features.
        now = base if outcome.features is None else outcome.features
        return torch.cat([counts, self._drift.tally(base, now, context["label"], self._attached())])

    @override
    def update(self, tally: Tensor, *, steps: float) -> None:
        counts, drift = tally.tensor_split([self._calibration.n_sums])
        self._calibration.update(counts, steps=steps)
        self._drift.update(drift, steps=steps)

    @override
    def metrics(self) -> Mapping[str, Tensor]:
        found = self._calibration.metrics()
        if not self.uniform_share:
            del found["damage_rate"]
        drift = {"drift_error": self._drift.error(), "drift_model": self._drift.chosen().float()}
        return found | drift

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self._calibration.state_dict() | self._drift.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._calibration.load_state_dict(state)
        self._drift.load_state_dict(state)
