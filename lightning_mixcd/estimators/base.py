"""The contract of an estimator."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

__all__ = ["Estimator"]


class Estimator(ABC):
    """From counts of damage per bin to an estimate of the damage rate per bin.

    Because samples are drawn uniformly inside a bin, the share of damaged ones among those rehearsed is an
    unbiased estimate of the bin's rate, whatever the probabilities that the bins were drawn with.

    A subclass names its tensors in `STATE`; they are what a checkpoint holds. It replaces them at each
    update instead of changing them in place, because earlier ones may still be on their way to the host.
    """

    STATE: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def reset(self, n_bins: int) -> None:
        """Forget everything and get ready for `n_bins` bins.

        Args:
            n_bins: Number of bins, K, at least 1.
        """

    @abstractmethod
    def update(self, damaged: Tensor, seen: Tensor, *, steps: float) -> None:
        """Learn from the samples rehearsed since the last update, on all ranks together.

        Args:
            damaged: Damaged samples per bin, float32, `(K,)`.
            seen: Rehearsed samples per bin, float32, `(K,)`.
            steps: Optimizer steps since the last update.
        """

    @abstractmethod
    def rates(self) -> Tensor:
        """Return the current estimate, on the device of the last update.

        Returns:
            Damage rate per bin in [0, 1], never NaN, `(K,)`.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors named in `STATE`."""
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over tensors that `state_dict` returned.

        Args:
            state: The tensors by name.
        """
        for name in self.STATE:
            setattr(self, name, state[name])
