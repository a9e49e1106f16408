"""`mixcd-train`: finetune with rehearsal, as configured."""

import statistics
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from omegaconf import DictConfig

from lightning_mixcd.app.base import base_model
from lightning_mixcd.app.conf import conf_dir, hush, make
from lightning_mixcd.callback import RehearsalCallback
from lightning_mixcd.data import Pool, RehearsalDataModule
from lightning_mixcd.report.records import METRICS, Record, read_logged
from lightning_mixcd.resume import ExactResume
from lightning_mixcd.tasks import Pairing

__all__ = ["main", "train"]


def train(config: DictConfig) -> Record:
    """Train or load the base model, finetune it, and measure both tasks.

    Args:
        config: The app's configuration; see `conf/train.yaml`.

    Returns:
        What the run measured, also written to the run's folder.
    """
    start = time.perf_counter()
    hush()
    pairing: Pairing = make(config.data)
    module, ledger = base_model(config, pairing)
    rehearsal = RehearsalCallback(make(config.strategy), seed=config.seed)
    data = RehearsalDataModule(
        pairing.new,
        Pool(pairing.pool, num_workers=config.num_workers),
        mix_ratio=config.mix_ratio,
        ledger=ledger,
        prior_val=pairing.prior_val,
        order_seed=config.seed,
    )
    callbacks: list[Callback] = [rehearsal, ExactResume()]
    if config.trainer.enable_progress_bar:
        callbacks.append(TQDMProgressBar(leave=False))
    trainer: Trainer = make(config.trainer, logger=make(config.logger), callbacks=callbacks)
    seed_everything(config.seed, workers=True, verbose=False)
    trainer.fit(module, datamodule=data, ckpt_path=config.ckpt_path)
    output = Path(HydraConfig.get().runtime.output_dir)
    damaged = read_logged(output / METRICS, "rehearsal/damaged_share")
    shares = [share for by_step in damaged.values() for share in by_step.values()]
    record = Record(
        name=config.name,
        mix_ratio=config.mix_ratio,
        seed=config.seed,
        data=HydraConfig.get().runtime.choices["data"],
        prior_accuracy=float(trainer.callback_metrics["val/prior/accuracy"]),
        new_accuracy=float(trainer.callback_metrics["val/new/accuracy"]),
        compute_units=rehearsal.compute_units,
        seconds=time.perf_counter() - start,
        damaged_share=statistics.fmean(shares) if shares else None,
    )
    record.write(output)
    return record


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")
def main(config: DictConfig) -> float:
    """Run `train`; a sweeper may maximise the mean accuracy over both tasks.

    Args:
        config: The app's configuration.

    Returns:
        Mean of prior and new accuracy.
    """
    record = train(config)
    return (record.prior_accuracy + record.new_accuracy) / 2
