"""Finetuning with rehearsal, as configured."""

import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from lightning_mixcd.adapters import Adapter
from lightning_mixcd.app.base import base_model, hash_of, own_folder
from lightning_mixcd.app.conf import hush, make
from lightning_mixcd.app.outcome import Outcome
from lightning_mixcd.app.run import (
    callbacks,
    check_columns,
    check_options,
    configured_pairing,
    configured_trainer,
    method_name,
    quiet_trainer,
    wise_ft_folder,
)
from lightning_mixcd.callback import RehearsalCallback
from lightning_mixcd.data import RehearsalDataModule
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.report.records import FILE, METRICS, Record
from lightning_mixcd.tasks import Pairing
from lightning_mixcd.weights import wise_ft_curve

__all__ = ["train"]

PRIOR, NEW = "val/prior/accuracy", "val/new/accuracy"

keep = rank_zero_only(Record.write)


def train(config: DictConfig) -> Record:
    """Train or load the base model, finetune it, and measure both tasks.

    Args:
        config: The app's configuration; see `conf/train.yaml`.

    Returns:
        What the run measured, also written to the run's folder.

    Raises:
        FileNotFoundError: If the checkpoint to resume from is not there.
    """
    hush()
    name = method_name(config)
    check_options(config)
    if config.ledger:
        Ledger.open(config.ledger)  # refuses what is none, where `fit` would record one
    _check_resumed(config.ckpt_path)
    rehearsal, others = callbacks(config)
    with own_folder(config) as output:
        return _train(config, rehearsal, others, name=name, output=output)


def _train(
    config: DictConfig, rehearsal: RehearsalCallback, others: list[Callback], *, name: str, output: Path
) -> Record:
    pairing = configured_pairing(config)
    check_columns(config, rehearsal, pairing.columns)
    module, ledger = base_model(config, pairing)
    outcome = Outcome(rehearsal, measures=[PRIOR, NEW])
    hooks = [rehearsal, *others, outcome]
    trainer = configured_trainer(config, logger=make(config.logger), callbacks=hooks)
    data = _data(config, pairing, ledger)
    base = copy.deepcopy(module.state_dict()) if config.wise_ft else {}
    # Of an earlier run in this folder; its log is not always one that Lightning deletes.
    for known in [output / FILE, output / METRICS, *output.glob(f"wise_ft_*/{FILE}")]:
        known.unlink(missing_ok=True)
    before = _checkpoints(output)
    seed_everything(config.seed, workers=True, verbose=False)
    start = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=config.ckpt_path)
    seconds = time.perf_counter() - start
    outcome.collect(trainer)
    if not outcome.measured:
        trainer.validate(module, datamodule=data, verbose=False)
    record = Record(
        name=name,
        mix_ratio=config.mix_ratio,
        seed=config.seed,
        data=HydraConfig.get().runtime.choices["data"],
        prior_accuracy=float(trainer.callback_metrics[PRIOR]),
        new_accuracy=float(trainer.callback_metrics[NEW]),
        compute_units=outcome.compute_units,
        seconds=seconds if config.ckpt_path is None else None,  # else of what was left to do
        damaged_share=outcome.damaged_share,
        steps=outcome.steps,
        exhausted=outcome.exhausted,
        rehearsal_weight=config.rehearsal_weight,
        penalties=tuple(config.penalty),
        data_hash=_data_hash(config),
        checkpoints=tuple(sorted(name for name, _ in _checkpoints(output) - before)),
        **_parameters(module, others),
    )
    keep(record, output)
    # The run itself is the point at 1.
    if alphas := [alpha for alpha in config.wise_ft if alpha != 1]:
        curve = wise_ft_curve(quiet_trainer(config), module, base, data=data, alphas=alphas)
        for alpha, found in curve.items():
            point = replace(record, alpha=alpha, prior_accuracy=found[PRIOR], new_accuracy=found[NEW])
            keep(point, output / wise_ft_folder(alpha))
    return record


def _check_resumed(path: str | None) -> None:
    # Lightning takes words and addresses too.
    if path and path.endswith(".ckpt") and "://" not in path and not Path(path).exists():
        raise FileNotFoundError(
            f"`ckpt_path` must be a checkpoint that is there, got {Path(path).absolute()}. Look into the "
            "folder of the run that this one is to continue."
        )


def _data(config: DictConfig, pairing: Pairing, ledger: Path) -> RehearsalDataModule:
    return RehearsalDataModule(
        pairing.new,
        pairing.pool,
        mix_ratio=config.mix_ratio,
        ledger=ledger,
        prior_val=pairing.prior_val,
        order_seed=config.seed,
    )


# With the time of the last change.
def _checkpoints(output: Path) -> set[tuple[str, int]]:
    found = [path for path in output.rglob("*.ckpt") if path.exists()]  # no links to what was deleted
    return {(path.relative_to(output).as_posix(), path.stat().st_mtime_ns) for path in found}


# The same for all seeds, in which runs that are compared may differ.
def _data_hash(config: DictConfig) -> str:
    config = config.copy()
    config.seed = 0
    return hash_of({"data": OmegaConf.to_container(config.data, resolve=True)})[0]


def _parameters(module: LightningModule, callbacks: list[Callback]) -> dict[str, Any]:
    for adapter in callbacks:
        if isinstance(adapter, Adapter):
            return {
                "trainable_parameters": adapter.trainable_parameters,
                "active_parameters": adapter.active_parameters,
                "active_blocks": adapter.active_blocks,
            }
    trained = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    return {"trainable_parameters": trained, "active_parameters": trained}
