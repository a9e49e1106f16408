"""What the damage rates of the bins really are, for judging the estimates."""

from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from typing_extensions import override

from lightning_mixcd.baseline import Baseline
from lightning_mixcd.callback import RehearsalCallback
from lightning_mixcd.data import RehearsalDataModule
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.probe import Probe
from lightning_mixcd.ranks import Ranks
from lightning_mixcd.strategies import MixCD
from lightning_mixcd.transfer import Transfer

__all__ = ["TrueRates"]


class TrueRates(Callback):
    """Logs the true damage rate of each of mix-cd's bins, beside the estimates, by a pass over the pool.

    For measuring only: these looks are not charged, and leave no trace in the run. The report draws how well
    the estimates are calibrated.

    Args:
        rehearsal: The callback that rehearses with `MixCD`; must come before this one.
        every_n_steps: Optimizer steps between two passes, a multiple of the trainer's `log_every_n_steps`.

    Raises:
        TypeError: If the strategy has no bins.
    """

    def __init__(self, rehearsal: RehearsalCallback, every_n_steps: int) -> None:
        if not isinstance(rehearsal.strategy, MixCD):
            raise TypeError(f"`rehearsal` must rehearse with MixCD, got {type(rehearsal.strategy).__name__}.")
        self.rehearsal, self.every_n_steps = rehearsal, every_n_steps
        self._strategy = rehearsal.strategy

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = getattr(trainer, "log_every_n_steps", 0)
        if self.every_n_steps < 1 or not logged or self.every_n_steps % logged:
            raise ValueError(
                f"`true_rates_every` must be a multiple of the trainer's `log_every_n_steps` ({logged}), got "
                f"{self.every_n_steps}. Only then are true and estimated rates logged at the same steps."
            )
        data, readout = getattr(trainer, "datamodule", None), self.rehearsal.readout
        assert isinstance(data, RehearsalDataModule)  # noqa: S101 -- as the app has it
        ledger = data.ledger if isinstance(data.ledger, Ledger) else Ledger.open(str(data.ledger))
        baseline = Baseline(ledger, readout.tolerance)
        assert baseline.ledger is not None  # noqa: S101 -- just given
        way = Transfer(trainer, pl_module, seed=0)
        way.begin()
        self._probe = Probe(
            pl_module, data.pool, readout, transfer=way.whole, context=way.precision, ranks=Ranks(trainer)
        )
        if readout.tolerance is not None:
            self._probe.known = baseline.known_of
        self._correct = torch.from_numpy(np.asarray(baseline.ledger.correct).nonzero()[0])
        self._step = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        before, self._step = self._step, trainer.global_step
        if self._step == before or self._step % self.every_n_steps:
            return
        damaged = ~self._probe.correct(self._correct)
        bins = self._strategy.bins_of(self._correct)
        rates = {
            f"rehearsal/true_rate/{k:02d}": damaged[bins == k].double().mean().item()
            for k in range(self._strategy.n_bins)
            if (bins == k).any()
        }
        # `LightningModule.log` would repeat them at every later step of the epoch.
        for logger in trainer.loggers:
            logger.log_metrics(rates, step=self._step - 1)
