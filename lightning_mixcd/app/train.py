"""`mixcd-train`: finetune with rehearsal, as configured."""

import copy
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import TQDMProgressBar
from omegaconf import DictConfig

from lightning_mixcd.app.base import base_model
from lightning_mixcd.app.budget import TrainingBudget
from lightning_mixcd.app.conf import conf_dir, hush, make
from lightning_mixcd.callback import RehearsalCallback
from lightning_mixcd.data import Pool, RehearsalDataModule
from lightning_mixcd.report.records import METRICS, Record, read_logged
from lightning_mixcd.resume import ExactResume
from lightning_mixcd.strategies import Oracle
from lightning_mixcd.tasks import Pairing
from lightning_mixcd.weights import wise_ft_curve

__all__ = ["main", "train"]

PRIOR, NEW = "val/prior/accuracy", "val/new/accuracy"


def train(config: DictConfig) -> Record:
    """Train or load the base model, finetune it, and measure both tasks.

    Args:
        config: The app's configuration; see `conf/train.yaml`.

    Returns:
        What the run measured, also written to the run's folder.
    """
    hush()
    pairing: Pairing = make(config.data)
    module, ledger = base_model(config, pairing)
    rehearsal, others = _callbacks(config)
    trainer: Trainer = make(config.trainer, logger=make(config.logger), callbacks=[rehearsal, *others])
    data = _data(config, pairing, ledger)
    base = copy.deepcopy(module.state_dict()) if config.wise_ft else {}
    seed_everything(config.seed, workers=True, verbose=False)
    start = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=config.ckpt_path)
    seconds = time.perf_counter() - start
    output = Path(HydraConfig.get().runtime.output_dir)
    record = Record(
        name=config.name or _name(config),
        mix_ratio=config.mix_ratio,
        seed=config.seed,
        data=HydraConfig.get().runtime.choices["data"],
        prior_accuracy=float(trainer.callback_metrics[PRIOR]),
        new_accuracy=float(trainer.callback_metrics[NEW]),
        compute_units=rehearsal.compute_units,
        seconds=seconds,
        damaged_share=_damaged_share(output / METRICS),
        steps=trainer.global_step,
        exhausted=rehearsal.exhausted,
        rehearsal_weight=config.rehearsal_weight,
        penalties=tuple(config.penalty),
    )
    record.write(output)
    if config.wise_ft:
        curve = wise_ft_curve(_quiet(config), module, base, data=data, alphas=config.wise_ft)
        for alpha, found in curve.items():
            point = replace(record, name=f"{record.name}+wise_ft", alpha=alpha)
            point = replace(point, prior_accuracy=found[PRIOR], new_accuracy=found[NEW])
            point.write(output / f"wise_ft_{alpha:g}")
    return record


def _name(config: DictConfig) -> str:
    return "+".join([HydraConfig.get().runtime.choices["strategy"], *config.penalty, *config.weights])


def _callbacks(config: DictConfig) -> tuple[RehearsalCallback, list[Callback]]:
    strategy = make(config.strategy)
    is_mark = isinstance(strategy, Oracle)
    rehearsal = RehearsalCallback(
        strategy,
        schedule=make(config.schedule),
        penalties=make(config.penalty),
        rehearsal_weight=config.rehearsal_weight,
        max_compute_units=None if is_mark else config.max_compute_units,
        seed=config.seed,
    )
    others: list[Callback] = [*make(config.weights).values(), ExactResume()]
    if is_mark:
        others.append(TrainingBudget(config.max_compute_units))
    if config.trainer.enable_progress_bar:
        others.append(TQDMProgressBar(leave=False))
    return rehearsal, others


def _data(config: DictConfig, pairing: Pairing, ledger: Path) -> RehearsalDataModule:
    pool = pairing.pool if isinstance(pairing.pool, Pool) else Pool(pairing.pool)
    return RehearsalDataModule(
        pairing.new,
        replace(pool, num_workers=config.num_workers),
        mix_ratio=config.mix_ratio,
        ledger=ledger,
        prior_val=pairing.prior_val,
        order_seed=config.seed,
    )


def _quiet(config: DictConfig) -> Trainer:
    trainer: Trainer = make(
        config.trainer, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    return trainer


def _damaged_share(metrics: Path) -> float | None:
    damaged = read_logged(metrics, "rehearsal/damaged_share")
    # Not a number where no rehearsed row was read.
    shares = [share for by_step in damaged.values() for share in by_step.values() if not math.isnan(share)]
    return statistics.fmean(shares) if shares else None


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
