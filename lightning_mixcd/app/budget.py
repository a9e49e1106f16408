"""The end of an oracle's run."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_mixcd.callback import RehearsalCallback

__all__ = ["TrainingBudget"]


class TrainingBudget(Callback):
    """Ends `fit` when training alone has spent so many compute units; looks at the pool are free.

    An oracle is a mark to measure against, not a method: it gets the steps that uniform rehearsal can afford,
    though what it looks at would use up any budget.

    Args:
        units: Compute units of training; None for no end.
        rehearsal: The callback that rehearses, and counts them; must come before this one.

    Attributes:
        exhausted: Whether `fit` was ended because they were spent.
    """

    def __init__(self, units: int | None, rehearsal: RehearsalCallback) -> None:
        self.units, self.rehearsal = units, rehearsal
        self.spent = self._step = 0
        self.exhausted = False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before, self._step = self._step, trainer.global_step
        self.spent += self.rehearsal.batch_units * trainer.world_size
        # Batches that are accumulated are made up to their step.
        if self.units is None or self._step == before:
            return
        # All processes must end with the same step.
        if trainer.strategy.reduce_boolean_decision(self.spent >= self.units, all=False):
            self.exhausted = trainer.should_stop = True

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spent = state_dict["spent"]
