"""What a schedule is, and the base of those that go by what training does."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

__all__ = ["AdaptiveSchedule", "Schedule"]

Schedule = Callable[[int], bool | float]


class AdaptiveSchedule(ABC):
    """A schedule that goes by what training does.

    All methods but `state_dict` run in the training step and must not wait for the device: values that lie
    there are read a fixed number of calls after they were noted, so that a run does not depend on timing.
    """

    needs_damage: ClassVar[bool] = False
    """Whether `learn` is called; there must then be a ledger."""

    @abstractmethod
    def __call__(self, step: int) -> bool | float:
        """Return which share of the mix ratio an optimizer step rehearses.

        Args:
            step: The step, counted from 0; the same one is asked for several times where gradients are
                accumulated.

        Returns:
            A number in [0, 1]; True is 1.
        """

    @abstractmethod
    def setup(self, module: nn.Module) -> None:
        """Begin anew, before the first step, or before `load_state_dict` where a run is resumed.

        Args:
            module: What is trained, on its device, with the weights that it goes on from.
        """

    def after_step(self, module: nn.Module) -> None:  # noqa: B027 -- not every schedule looks
        """Look at what an optimizer step has made of the module.

        Args:
            module: What is trained.
        """

    def learn(self, damaged_share: Tensor) -> None:  # noqa: B027 -- not every schedule learns
        """Learn how many of the rows rehearsed since the last lesson are damaged.

        Args:
            damaged_share: Of those that the base model had right, on all ranks together; 0-dim, on the
                device, NaN if there was none.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: numbers and tensors only."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another schedule stopped; after `setup`.

        Args:
            state: What its `state_dict` returned.
        """
