"""The end of an oracle's run."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_mixcd.functional.joining import n_rows

__all__ = ["TrainingBudget"]


class TrainingBudget(Callback):
    """Ends `fit` when training alone has spent so many compute units; looks at the pool are free.

    An oracle is a mark to measure against, not a method: it gets the steps that uniform rehearsal can afford,
    though what it looks at would use up any budget.

    Args:
        units: Compute units, 3 per row of a training batch; None for no end.

    Attributes:
        exhausted: Whether `fit` was ended because they were spent.
    """

    def __init__(self, units: int | None) -> None:
        self.units = units
        self.spent = 0
        self.exhausted = False

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.spent += 3 * n_rows(batch) * trainer.world_size
        if self.units is not None and self.spent >= self.units:
            self.exhausted = trainer.should_stop = True

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"spent": self.spent}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spent = state_dict["spent"]
