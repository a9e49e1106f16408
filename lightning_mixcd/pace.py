"""How many rows each step rehearses, by mix ratio and schedule."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mixcd.data.ration import Ration
from lightning_mixcd.schedules import AdaptiveSchedule, Schedule

__all__ = ["Pace"]


class Pace:
    """A mix ratio, of which a schedule takes a share at each step.

    Args:
        mix_ratio: Rehearsed rows per finetune row, at most.
        schedule: Which share of it each optimizer step rehearses.

    Raises:
        ValueError: If the mix ratio is out of range.
    """

    def __init__(self, mix_ratio: float, schedule: Schedule) -> None:
        self.ration = Ration(mix_ratio)
        self._schedule = schedule
        self._adaptive = schedule if isinstance(schedule, AdaptiveSchedule) else None
        self._share: bool | float = True  # at the last step

    @property
    def needs_damage(self) -> bool:
        """Whether the schedule goes by the damage among rehearsed rows."""
        return self._adaptive is not None and self._adaptive.needs_damage

    def begin(self, module: nn.Module, *, knows_base: bool) -> None:
        """Get ready for the first step.

        Args:
            module: What is trained, with the weights that it goes on from.
            knows_base: Whether it is known what the base model had right.

        Raises:
            ValueError: If the schedule needs that and it is not.
        """
        if self._adaptive is None:
            return
        if self.needs_damage and not knows_base:
            raise ValueError(
                f"`ledger` must be given, because {type(self._adaptive).__name__} goes by what the base "
                "model had right. Pass a folder, RehearsalCallback(ledger='base.ledger'): it is recorded "
                "there if it is empty."
            )
        self._adaptive.setup(module)

    def due(self, finetune_rows: int, step: int) -> int:
        """Return how many rows to rehearse beside a finetune batch.

        Args:
            finetune_rows: Rows of the batch.
            step: The optimizer step that it belongs to.

        Returns:
            Rows due, 0 or more.
        """
        self._share = self._schedule(step)
        return self.ration.due(finetune_rows, self._share)

    def after_step(self, module: nn.Module) -> None:
        """Let the schedule look at what an optimizer step has made of the module.

        Args:
            module: What is trained.
        """
        if self._adaptive is not None:
            self._adaptive.after_step(module)

    def after_lesson(self, damage_rate: Callable[[], Tensor]) -> None:
        """Let the schedule learn what was seen since the last lesson.

        Args:
            damage_rate: Returns the damaged share of the base-correct rows, on all ranks together.
        """
        if self._adaptive is not None and self.needs_damage:
            self._adaptive.learn(damage_rate())

    def metrics(self) -> dict[str, Tensor]:
        """Return the share of the mix ratio at the last step, where training decides on it."""
        return {} if self._adaptive is None else {"share": torch.tensor(float(self._share))}

    def state_dict(self) -> dict[str, Any]:
        """Return what the schedule needs to go on; the same on all ranks."""
        return {} if self._adaptive is None else self._adaptive.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; after `begin`.

        Args:
            state: The state.
        """
        if self._adaptive is not None:
            self._adaptive.load_state_dict(state)
