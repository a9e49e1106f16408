"""What a run came to, also where Lightning trained it in processes of its own."""

import math
from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_mixcd.callback import RehearsalCallback

__all__ = ["Outcome"]


class Outcome(Callback):
    """Brings the counts of a run home: of copies that `ddp_spawn` trains, only weights and metrics return.

    Args:
        rehearsal: The callback that rehearses; must come before this one.
        measures: Names of metrics that validation must log.

    Raises:
        ValueError: Behind the first validation, if one is not logged.

    Attributes:
        steps: Optimizer steps made.
        measured: Whether the run was validated behind the last of them.
        compute_units: As of the callback.
        exhausted: As of the callback.
        damaged_share: Share of the rows learnt from that were damaged, of all processes and since the run
            began, resumed or not; None if there was none or an earlier version began it.
    """

    def __init__(self, rehearsal: RehearsalCallback, measures: Sequence[str] = ()) -> None:
        self.rehearsal, self.measures = rehearsal, measures
        self.steps, self.compute_units = 0, 0
        self.measured = self.exhausted = False
        self.damaged_share: float | None = None
        self._step = -1  # of the last validation, which need not be the last one of the run

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking:
            return
        self._step = trainer.global_step
        logged = trainer.callback_metrics
        if absent := [name for name in self.measures if name not in logged]:
            raise ValueError(
                f"`model` must log {absent} in validation, but it logged {sorted(logged)}. Let "
                "`validation_step` log the new task's accuracy for the first loader, the prior one's for the "
                "second."
            )

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            counts = {
                "steps": trainer.global_step,
                "measured": self._step == trainer.global_step,
                "compute_units": self.rehearsal.compute_units,
                "exhausted": self.rehearsal.exhausted,
                "damaged_share": self._share(),
            }
            trainer.callback_metrics.update({f"run/{name}": torch.tensor(n) for name, n in counts.items()})

    def collect(self, trainer: Trainer) -> None:
        """Take the counts over, right behind `fit`.

        Args:
            trainer: Which has fitted.
        """
        for name in ("steps", "measured", "compute_units", "exhausted"):
            setattr(self, name, trainer.callback_metrics[f"run/{name}"].item())
        share = trainer.callback_metrics["run/damaged_share"].item()
        self.damaged_share = None if math.isnan(share) else share

    def _share(self) -> float:
        counts = self.rehearsal.state_dict()["learner"]["run"]
        return math.nan if counts is None else float(counts[0] / counts[1])
