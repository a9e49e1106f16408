"""What a method spends."""

from numbers import Integral

import torch
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

__all__ = ["ComputeUnits"]


class ComputeUnits(Metric):
    """Sample-forwards plus twice the sample-backwards, as a backward costs about two forwards.

    Whole numbers throughout, so sums are exact up to 2^63. Every forward that a method spends counts,
    that of the ledger included.

    Attributes:
        forwards: Sample-forwards so far, int64 scalar.
        backwards: Sample-backwards so far, int64 scalar.

    Example:
        >>> units = ComputeUnits()
        >>> units.update(forwards=40, backwards=40)
        >>> units.update(forwards=1000, backwards=0)
        >>> units.compute()
        tensor(1120)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    forwards: Tensor
    backwards: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("forwards", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("backwards", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @override
    def update(self, forwards: int, backwards: int) -> None:
        """Add what one step, or one pass, spent.

        Args:
            forwards: Samples that went forward.
            backwards: Samples that went backward.

        Raises:
            TypeError: If an argument is not a whole number; tensors are refused, as reading them would
                wait for the device.
            ValueError: If an argument is negative.
        """
        _check_count("forwards", forwards)
        _check_count("backwards", backwards)
        # Not in place: a reset in inference mode leaves a state that may not be changed outside of it.
        self.forwards = self.forwards + int(forwards)
        self.backwards = self.backwards + int(backwards)

    @override
    def compute(self) -> Tensor:
        """Compute the units so far.

        Returns:
            `forwards + 2 * backwards`, int64 scalar.
        """
        return self.forwards + 2 * self.backwards


def _check_count(name: str, count: object) -> None:
    remedy = "Count samples on the host, for example with `len(batch)`."
    if isinstance(count, bool) or not isinstance(count, Integral):
        msg = f"`{name}` must be a whole number, got {type(count).__name__}. {remedy}"
        raise TypeError(msg)
    if int(count) < 0:
        msg = f"`{name}` must be 0 or more, got {count}. {remedy}"
        raise ValueError(msg)
