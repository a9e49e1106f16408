"""Rates that are known beforehand."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_number
from lightning_mixcd.estimators.base import Estimator

__all__ = ["Static"]


class Static(Estimator):
    """Rates given by the user, for example measured once after a short pilot run.

    Args:
        rates: Damage rate per bin, each in [0, 1], at least one above 0, `(K,)`.

    Raises:
        TypeError: If these are no numbers.
        ValueError: If a rate is out of range, or all are 0.

    Example:
        >>> estimator = Static([0.1, 0.4])
        >>> estimator.reset(2)
        >>> estimator.rates()
        tensor([0.1000, 0.4000])
    """

    def __init__(self, rates: Sequence[float]) -> None:
        given: Any = rates
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise TypeError(f"`rates` must be a list of one rate per bin, got {rates!r}. Pass [0.1, 0.4].")
        given = [rate.tolist() if isinstance(rate, Tensor) else rate for rate in given]
        for rate in given:
            check_number(rates=rate)
        self._rates, self.known = given, torch.tensor(given, dtype=torch.float32)
        if not ((self.known >= 0) & (self.known <= 1)).all() or not self.known.any():
            raise ValueError(
                f"`rates` must be in [0, 1] and above 0 somewhere, got {given}. "
                "Measure them in a pilot run, or use `DecayedBeta`."
            )

    @override
    def reset(self, n_bins: int) -> None:
        if n_bins != len(self.known):
            raise ValueError(
                f"`rates` must have one value per bin ({n_bins}), got {len(self.known)}. "
                "Use a partition with that many bins, or give that many rates."
            )

    @override
    def update(self, damaged: Tensor, seen: Tensor, *, steps: float) -> None:
        """Learn nothing."""

    @override
    def rates(self) -> Tensor:
        return self.known
