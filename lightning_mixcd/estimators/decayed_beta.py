"""The default estimator."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.estimators.base import Estimator
from lightning_mixcd.functional.collateral import beta_mean

__all__ = ["DecayedBeta"]


class DecayedBeta(Estimator):
    """Posterior mean of a Beta prior over counts that fade with a half-life.

    The prior keeps every bin in the draw: a bin whose first samples happen to be undamaged is estimated low,
    never zero. Fading follows the damage as training moves it. Rule of thumb: a bin should collect at least
    50 samples within the time that counts live, `rows_per_step * halflife_steps / ln 2 / n_bins >= 50`.

    Args:
        halflife_steps: Optimizer steps after which an observation counts half, above 0; `inf` never fades.
        a: Prior pseudo-count of damaged samples, above 0 and finite.
        b: Prior pseudo-count of undamaged samples, above 0 and finite.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> estimator = DecayedBeta(halflife_steps=1)
        >>> estimator.reset(2)
        >>> estimator.update(torch.tensor([4.0, 0.0]), torch.tensor([4.0, 0.0]), steps=1)
        >>> estimator.rates()
        tensor([0.8333, 0.5000])
    """

    STATE = ("damaged", "seen")

    def __init__(self, halflife_steps: float = 100.0, *, a: float = 1.0, b: float = 1.0) -> None:
        check_range("(0, inf]", "The default is 100.", halflife_steps=halflife_steps)
        check_range("(0, inf)", "The default is 1.", a=a, b=b)
        self.halflife_steps, self.a, self.b = halflife_steps, a, b
        self.reset(1)

    @override
    def reset(self, n_bins: int) -> None:
        self.damaged, self.seen = (torch.zeros(n_bins, dtype=torch.float32) for _ in range(2))

    @override
    def update(self, damaged: Tensor, seen: Tensor, *, steps: float) -> None:
        kept = 0.5 ** (steps / self.halflife_steps)
        self.damaged = torch.add(damaged, self.damaged.to(damaged.device), alpha=kept)
        self.seen = torch.add(seen, self.seen.to(seen.device), alpha=kept)

    @override
    def rates(self) -> Tensor:
        return beta_mean(self.damaged, self.seen, self.a, self.b)
