"""Rehearse at growing distances of the weights."""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lightning_mixcd.errors import check_counts
from lightning_mixcd.schedules._days import review_day
from lightning_mixcd.schedules._delayed import Delayed
from lightning_mixcd.schedules.base import AdaptiveSchedule

__all__ = ["ModelTime"]


class ModelTime(AdaptiveSchedule):
    """Rehearse when the weights have moved by 1, 2, 4, 7, 15, 30, 60, 120 ... days.

    The model's clock goes as fast as training moves the weights, `tau_t = sum_t ||theta_t - theta_{t-1}||`
    over the parameters that were trainable at the start, and a day is what it shows after the first steps.
    This is the "when" of FOREVER (arXiv:2601.03938); its regulariser is left out, and that a step is
    rehearsed `lag` steps after its day is ours: the clock is on the device, and nothing waits for it.

    A second copy of the trainable parameters is kept.

    Args:
        day: Optimizer steps of the first day; without movement in these, up to the first that moves.
        burst: Steps rehearsed in a row from each of the days on.
        lag: How many steps late the clock is read.

    Raises:
        ValueError: If a number is below 1; at the start of `fit`, if parameters are sharded.

    Example:
        >>> from lightning_mixcd import RehearsalCallback, Uniform
        >>> callback = RehearsalCallback(Uniform(), pool=range(1000), schedule=ModelTime(burst=8))
    """

    def __init__(self, day: int = 24, *, burst: int = 1, lag: int = 8) -> None:
        check_counts("These are optimizer steps.", day=day, burst=burst, lag=lag)
        self.day, self.burst, self.lag = day, burst, lag

    @override
    def __call__(self, step: int) -> bool:
        return self._left > 0

    @override
    def setup(self, module: nn.Module) -> None:
        named = {name: p for name, p in module.named_parameters() if p.requires_grad}
        sharded = [name for name, p in named.items() if isinstance(p, DTensor)]
        if sharded:
            raise ValueError(
                f"`ModelTime` must see whole parameters, got parts of `{sharded[0]}` on each process. Use "
                "`ExpandingIntervals`, whose days are counted in steps, or DDP."
            )
        self._parameters = [*named.values()]
        self._previous = [p.detach().clone() for p in self._parameters]
        self._dtype = reduce(torch.promote_types, (p.dtype for p in self._parameters), torch.float32)
        self._distance = Delayed(self.lag)
        self._steps = 0  # on the clock
        self._time = 0.0
        self._length = 0.0  # of a day; 0 as long as it is not known
        self._days = 0  # of review, passed
        self._left = 0  # steps of the burst

    @override
    def after_step(self, module: nn.Module) -> None:
        self._left = max(0, self._left - 1)
        distance = self._distance(self._step_length())
        if distance is None:
            return
        self._steps, self._time = self._steps + 1, self._time + distance
        if self._steps >= self.day and not self._length:
            self._length = self._time
        if self._length and self._time >= self._length * review_day(self._days):
            self._days, self._left = self._days + 1, self.burst

    def _step_length(self) -> Tensor:
        # Taken anew each time: some optimizers give parameters other memory.
        now = [p.detach() for p in self._parameters]
        # All parameters in one kernel each, and the difference in place of the copy.
        torch._foreach_sub_(self._previous, now)
        norms = torch._foreach_norm(self._previous, 2, self._dtype)  # noqa: SLF001
        torch._foreach_copy_(self._previous, now)
        length: Tensor = torch.linalg.vector_norm(torch.stack(norms))
        return length

    @override
    def state_dict(self) -> dict[str, Any]:
        return {
            "pending": self._distance.pending(),
            "steps": self._steps,
            "time": self._time,
            "length": self._length,
            "days": self._days,
            "left": self._left,
        }

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._distance.restore(state["pending"])
        self._steps, self._time, self._length = state["steps"], state["time"], state["length"]
        self._days, self._left = state["days"], state["left"]
