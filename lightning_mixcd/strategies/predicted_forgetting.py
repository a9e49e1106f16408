"""Rehearse what a low-rank model of forgetting says is being forgotten."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_counts, check_range
from lightning_mixcd.functional._chunks import chunks
from lightning_mixcd.functional.drift import leading_directions
from lightning_mixcd.ledger.columns import Array
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._binned import OrderedStrategy, Shuffles, one_bin
from lightning_mixcd.strategies._candidates import next_candidates
from lightning_mixcd.strategies._needs import column_of, given, losses_of
from lightning_mixcd.types import Outcome

__all__ = ["PredictedForgetting"]

CHUNK = 1 << 14
LEAST_VARIANCE = 1e-10  # as a share of the greatest


class PredictedForgetting(OrderedStrategy):
    r"""Draw, of some random candidates, in proportion to $\exp(\hat y_i / \tau)$.

    $\hat y_i = w \cdot u_i$ predicts by how much the loss of sample i has risen since the ledger. The factors
    $u_i$ are the leading principal components of a column of the ledger, and 1. The coefficients w are a
    ridge regression on the rehearsed samples, whose rises are seen while they are trained on.

    After Jin and Ren, arXiv:2402.01865 and 2406.14026, who predict from forgetting in earlier finetunings.

    Args:
        column: Column of the ledger that factors are made of, `(N, t)`: how much each of t earlier
            finetunings raised the loss of each sample, or features.
        rank: Number of components, at least 1.
        temperature: τ in nats, above 0; a lower one aims more sharply.
        ridge: Weight of the prior that nothing is forgotten, in samples, above 0 and finite.
        halflife_steps: Optimizer steps after which a seen rise counts half, above 0.
        candidates_per_row: Candidates per sample drawn, at least 1, which is uniform rehearsal.

    Raises:
        ValueError: If an argument is out of range, or the ledger lacks the column.

    Example:
        >>> ledger = Ledger.from_arrays([True] * 100, [0.1] * 100, features=np.arange(100.0)[:, None])
        >>> strategy = PredictedForgetting(temperature=0.01)
        >>> strategy.setup(100, ledger, seed=0)
        >>> index = torch.arange(0, 100, 10)
        >>> rise = index / 100  # forgotten is what has a high feature
        >>> seen = Outcome(index, rise < 0.5, 0.1 + rise, strategy.context(index))
        >>> strategy.update(strategy.tally(seen), steps=1)
        >>> drawn = strategy.draw(4, signal=strategy.signal(), generator=torch.Generator().manual_seed(0))
        >>> bool((drawn > 50).all())
        True
    """

    needs_ledger = True
    needs_loss = True
    _order: Shuffles

    def __init__(
        self,
        column: str = "features",
        *,
        rank: int = 8,
        temperature: float = 1.0,
        ridge: float = 1.0,
        halflife_steps: float = 100.0,
        candidates_per_row: int = 5,
    ) -> None:
        check_counts("The default is 8.", rank=rank)
        check_counts("The default is 5.", candidates_per_row=candidates_per_row)
        check_range("(0, inf]", "The default is 1.", temperature=temperature)
        check_range("(0, inf)", "The default is 1.", ridge=ridge)
        check_range("(0, inf]", "The default is 100.", halflife_steps=halflife_steps)
        self.column, self.rank, self.candidates_per_row = column, rank, candidates_per_row
        self.needs_columns = (column,)
        self.temperature, self.ridge, self.halflife_steps = temperature, ridge, halflife_steps

    @override
    def setup(self, n_pool: int, ledger: Ledger | None, *, seed: int) -> None:
        ledger = given(ledger)
        self.n_available = n_pool
        self._base_loss = np.asarray(ledger.loss)
        self._components = principal_components(column_of(ledger, self.column, self, ndim=2), self.rank)
        self._order = Shuffles(one_bin(n_pool), 1, seed=seed)
        size = self._components.shape[1] + 1
        # Of the regression: u uᵀ, and beside it u y.
        self._sums = torch.zeros(size, size + 1)

    @override
    def select(self, n: int, *, signal: Tensor | None, generator: torch.Generator) -> Tensor:
        found = torch.from_numpy(next_candidates(self._order, n, self.candidates_per_row))
        predicted = self._factors(found).double() @ self.coefficients(given(signal))
        # The n highest of such keys are draws without replacement in proportion to the exponential.
        clock = torch.empty(len(found), dtype=torch.float64).exponential_(generator=generator)
        return found[(predicted / self.temperature - clock.log()).topk(n).indices]

    def coefficients(self, signal: Tensor) -> Tensor:
        """Return w as it follows from a signal, float64, `(<= rank + 1,)`."""
        squares, products = signal[:, :-1].double(), signal[:, -1].double()
        prior = self.ridge * torch.eye(len(squares), dtype=torch.float64)
        w: Tensor = torch.linalg.solve(squares + prior, products)
        return w

    @override
    def context(self, index: Tensor) -> Mapping[str, Tensor]:
        base_loss = torch.from_numpy(self._base_loss[index.numpy()])
        return {"factors": self._factors(index), "base_loss": base_loss}

    @override
    def tally(self, outcome: Outcome) -> Tensor:
        rise = losses_of(outcome, self) - outcome.context["base_loss"]
        usable = rise.isfinite()
        u = outcome.context["factors"] * usable[:, None]
        return u.T @ torch.cat([u, rise.where(usable, 0)[:, None]], dim=1)

    @override
    def update(self, tally: Tensor, *, steps: float) -> None:
        kept = 0.5 ** (steps / self.halflife_steps)
        self._sums = torch.add(tally, self._sums.to(tally.device), alpha=kept)

    @override
    def signal(self) -> Tensor:
        return self._sums

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {"sums": self._sums}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._sums = state["sums"]

    def _factors(self, index: Tensor) -> Tensor:
        rows = torch.from_numpy(self._components[index.numpy()])
        return torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def principal_components(values: Array, rank: int) -> npt.NDArray[np.float32]:
    """Describe each row by few uncorrelated numbers of mean 0 and mean square 1.

    Args:
        values: `(N, t)`.
        rank: How many numbers at most, k.

    Returns:
        Components, the leading one first, without those that do not vary, float32, `(N, <= k)`.

    Example:
        >>> principal_components(np.array([[0.0, 0.0], [2.0, 2.0]]), rank=2).shape
        (2, 1)
    """
    mean, squares = np.zeros(values.shape[1]), np.zeros((values.shape[1],) * 2)
    for rows in chunks(len(values), CHUNK):
        mean += values[rows].sum(axis=0, dtype=np.float64) / len(values)
    for rows in chunks(len(values), CHUNK):
        away = values[rows] - mean
        squares += away.T @ away / len(values)
    directions = leading_directions(torch.from_numpy(squares), rank).numpy().T
    variances = ((squares @ directions) * directions).sum(axis=0)
    varies = variances > LEAST_VARIANCE * variances[0]
    weights = directions[:, varies] / np.sqrt(variances[varies])
    found = np.empty((len(values), weights.shape[1]), dtype=np.float32)
    for rows in chunks(len(values), CHUNK):
        found[rows] = (values[rows] - mean) @ weights
    return found
