"""Rates of damage of two ways to sort samples at once, from counts too few for every pair."""

import torch
from torch import Tensor

from lightning_mixcd.functional.collateral import beta_mean

__all__ = ["crossed_rates"]

N_ROUNDS = 5
PRIOR = 10.0  # what the product of a cell's rates counts for, in samples seen


def crossed_rates(damaged: Tensor, seen: Tensor) -> Tensor:
    r"""Estimate the damage rate in each cell of a table, from its margins and, where there is enough, itself.

    A cell is first taken for a product, $\alpha_k \gamma_j$, of the rate of its column and how much more or
    less than that its row is damaged, each found in turn given the other. That counts as much as ten
    samples seen in the cell. So a column that says nothing leaves the rates of rows, and the other way round.

    Args:
        damaged: Damaged samples per cell, may be decayed, `(J, K)`.
        seen: Samples seen per cell, decayed alike, `(J, K)`.

    Returns:
        Rates in (0, 1], `(J, K)`. With one row, `beta_mean`.

    Example:
        >>> seen = torch.full((2, 3), 1e6)
        >>> crossed_rates(seen * torch.tensor([[0.1], [0.4]]), seen).round(decimals=3)
        tensor([[0.1000, 0.1000, 0.1000],
                [0.4000, 0.4000, 0.4000]])
    """
    rates = beta_mean(damaged.sum(dim=0), seen.sum(dim=0))[None]
    if len(damaged) == 1:
        return rates
    factors = torch.ones_like(damaged[:, :1])
    for _ in range(N_ROUNDS):
        factors = (damaged.sum(dim=1, keepdim=True) + 1) / ((seen * rates).sum(dim=1, keepdim=True) + 1)
        # Beta(1, 1), as in `beta_mean`, on what is seen at the rate of a row of average damage.
        rates = (damaged.sum(dim=0, keepdim=True) + 1) / ((seen * factors).sum(dim=0, keepdim=True) + 2)
    product = (factors * rates).clamp(max=1)
    return (damaged + PRIOR * product) / (seen + PRIOR)
