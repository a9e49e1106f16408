"""Rehearse as much as it takes."""

from collections.abc import Mapping
from math import exp, isnan
from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.errors import check_number, check_range
from lightning_mixcd.schedules._delayed import Delayed
from lightning_mixcd.schedules.base import AdaptiveSchedule

__all__ = ["HoldRetention"]


class HoldRetention(AdaptiveSchedule):
    """Hold the share of base-correct samples that are still right, by rehearsing more or less.

    An integral controller on the logarithm of the share: after each lesson, which comes every half `lag`
    batches, the share of the mix ratio is multiplied by `exp(gain * (damaged share - (1 - target)))` and kept
    between `least` and `most`. So it moves the less, the fewer rows there were to see. Stopping at a bound
    also stops the summing up there, so the share leaves it as soon as the sign of the error turns.

    What it reads is the damaged share of the rehearsed rows, in the step that rehearses them. With `Uniform`
    and `UniformCorrect` these stand for the pool, but for one thing: they have waited longest for their turn,
    so in a small pool somewhat more is retained than `target` says. A strategy that aims at damage, such as
    `MixCD`, meets more damage than the pool has, and so retains still more.

    Args:
        target: Share to hold, above 0 and below 1.
        gain: How fast the share of the mix ratio moves, per lesson, above 0 and at most 100.
        least: Lowest share, above 0: without rehearsed rows nothing would be seen of the damage.
        most: Highest share, at most 1, which is also the first.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = HoldRetention(0.9)
        >>> schedule.setup(nn.Identity())
        >>> schedule(0)
        1.0
    """

    needs_damage = True
    DELAY = 2  # lessons after which one is read

    def __init__(
        self, target: float = 0.95, *, gain: float = 1.0, least: float = 0.1, most: float = 1.0
    ) -> None:
        check_range("(0, 1)", "The default is 0.95.", target=target)
        check_range("(0, 100]", "The default is 1.", gain=gain)
        check_number(least=least, most=most)
        if not 0 < least < most <= 1:
            raise ValueError(
                f"`least` and `most` must be shares of the mix ratio with 0 < least < most <= 1, got {least} "
                f"and {most}. Without rehearsed rows nothing is seen of the damage."
            )
        self.target, self.gain, self.least, self.most = target, gain, least, most

    @override
    def __call__(self, step: int) -> float:
        return self._share

    @override
    def setup(self, module: nn.Module) -> None:
        self._share = self.most
        self._damaged = Delayed(self.DELAY)

    @override
    def learn(self, damaged_share: Tensor) -> None:
        damaged = self._damaged(damaged_share)
        if damaged is None or isnan(damaged):
            return
        share = self._share * exp(self.gain * (damaged - (1 - self.target)))
        self._share = min(self.most, max(self.least, share))

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"share": self._share, "pending": self._damaged.pending()}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._share = state["share"]
        self._damaged.restore(state["pending"])
