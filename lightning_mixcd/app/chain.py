"""Several tasks, one after the other: `mixcd-train experiment=chain`."""

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from lightning.pytorch import LightningDataModule, LightningModule, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from lightning_mixcd.app.base import base_model, own_folder, record, turn
from lightning_mixcd.app.conf import hush, make
from lightning_mixcd.app.outcome import Outcome
from lightning_mixcd.app.run import (
    callbacks,
    check_columns,
    check_options,
    configured_pool,
    configured_trainer,
    method_name,
    quiet_trainer,
)
from lightning_mixcd.data import Pool, RehearsalDataModule, union_pool
from lightning_mixcd.data.order import check_plain
from lightning_mixcd.report.chains import ChainRecord
from lightning_mixcd.report.files import replacing, write_text
from lightning_mixcd.report.matrix import plot_matrices
from lightning_mixcd.report.saving import save_rows
from lightning_mixcd.resume import newest_checkpoint
from lightning_mixcd.tasks import Pairing, TwoHeads

__all__ = ["chain_base", "run_chain"]

ACCURACY = "val/new/accuracy"
STAGE = "stage"  # the column that says which task a pool sample is of
Tasks = Mapping[str, LightningDataModule]


class Stage(TypedDict):
    """What one stage measured.

    Args:
        accuracies: On each task after it; empty until they are measured.
        compute_units: What it spent.
        seconds: Wall-clock time of `fit`; of a stage that was resumed, since then.
    """

    accuracies: list[float]
    compute_units: int
    seconds: float


def run_chain(config: DictConfig) -> ChainRecord:
    """Train the base model on the first task, finetune it on each of the others, measure all after each.

    In every stage, the pool is what all earlier stages learnt from, and the base model is the model as the
    stage finds it. A chain that was interrupted goes on in its folder, at the last checkpoint.

    Args:
        config: The app's configuration; `stages` maps names to datamodules.

    Returns:
        What the chain measured, also written to the run's folder, with the matrix as a table and a picture.
    """
    hush()
    check_options(config)
    rehearsal, _ = callbacks(config)  # refuses what cannot be made
    _check(config)
    check_columns(config, rehearsal, [STAGE])
    with own_folder(config) as output:
        _check_same(config, output)
        return _run(config, output)


def chain_base(config: DictConfig) -> Path:
    """Train the base model of a chain on its first task and record its ledger, unless that was done before.

    Args:
        config: The app's configuration.

    Returns:
        The folder of the ledger.
    """
    return _base(config, _tasks(config))[1]


def _run(config: DictConfig, output: Path) -> ChainRecord:
    tasks = _tasks(config)
    _pool(config, tasks, len(tasks) - 1)  # refuses tasks whose samples cannot share a batch
    names = [*tasks]
    seed_everything(config.seed, workers=True, verbose=False)
    initial = _measure(config, _one_head(make(config.model)), tasks)
    module, ledger = _base(config, tasks)
    rows, stages = [_measure(config, module, tasks)], []
    for k in range(1, len(tasks)):
        folder = output / "stages" / f"{k}_{names[k]}"
        stages.append(_stage(config, module, tasks, k, folder, ledger if k == 1 else None))
        rows.append(stages[-1]["accuracies"])
    record = ChainRecord(
        name=method_name(config),
        mix_ratio=config.mix_ratio,
        rehearsal_weight=config.rehearsal_weight,
        seed=config.seed,
        tasks=names,
        initial=initial,
        accuracies=rows,
        compute_units=sum(stage["compute_units"] for stage in stages),
        seconds=sum(stage["seconds"] for stage in stages),
    )
    _write(record, output)
    return record


def _check(config: DictConfig) -> None:
    given = [name for name in ("wise_ft", "ckpt_path", "ledger") if config[name]]
    if given:
        raise ValueError(
            f"`wise_ft`, `ckpt_path` and `ledger` must be empty for a chain, got {given}. A chain records "
            "its own ledgers, and resumes by itself in its folder, `hydra.run.dir`."
        )


def _one_head(module: LightningModule) -> LightningModule:
    if isinstance(module, TwoHeads):
        raise TypeError(
            "`model` must have one head for all tasks of a chain, got TwoHeads, which has one for a new and "
            "one for a prior task. Choose another model, with a class for each label of all tasks."
        )
    return module


def _check_same(config: DictConfig, output: Path) -> None:
    text = OmegaConf.to_yaml(config, resolve=True)
    known = output / "config.yaml"
    if known.exists() and (begun := known.read_text(encoding="utf-8")) != text:
        before, now = (dict(OmegaConf.create(yaml)) for yaml in (begun, text))
        changed = sorted(key for key in {*before, *now} if str(before.get(key)) != str(now.get(key)))
        raise ValueError(
            f"`hydra.run.dir` must be a new folder or that of the same chain, but {output} has one with "
            f"another {changed}. Give another folder, or delete this one."
        )
    rank_zero_only(write_text)(known, text)


def _tasks(config: DictConfig) -> dict[str, LightningDataModule]:
    tasks: dict[str, LightningDataModule] = make(config.stages)
    if len(tasks) < 2:
        raise ValueError(
            f"`stages` must hold at least two tasks, got {[*tasks]}. The first is the base model's."
        )
    for name, task in tasks.items():
        task.prepare_data()
        _loader(name, task)  # refuses what is learnt from in part
    return tasks


def _loader(name: str, task: LightningDataModule) -> DataLoader[Any]:
    task.setup("fit")  # again, since a `fit` may have torn it down
    return check_plain(
        task.train_dataloader(),
        f"Task {name!r} of `stages`",
        "Choose samples by `torch.utils.data.Subset`: in later stages the whole dataset is rehearsed.",
    )


def _pool(config: DictConfig, tasks: Tasks, n: int) -> tuple[Pool, Mapping[str, Any]]:
    loaders = {name: _loader(name, task) for name, task in [*tasks.items()][:n]}
    parts = {name: Pool(loader.dataset, collate_fn=loader.collate_fn) for name, loader in loaders.items()}
    pool, stage = union_pool(parts)
    return configured_pool(config, pool, {STAGE: stage})


def _base(config: DictConfig, tasks: Tasks) -> tuple[LightningModule, Path]:
    first, second = [*tasks.values()][:2]
    pool, columns = _pool(config, tasks, 1)
    config = config.copy()
    # What the base model follows from: chains that differ in later tasks share it.
    name = next(iter(tasks))
    config.data = {
        "first": name,
        "from": config.stages if "_target_" in config.stages else config.stages[name],
    }
    return base_model(config, Pairing(first, second, pool, first.val_dataloader(), columns))


def _stage(
    config: DictConfig, module: LightningModule, tasks: Tasks, k: int, folder: Path, ledger: Path | None
) -> Stage:
    done, weights = folder / "stage.json", folder / "weights.pt"
    if done.exists():
        state = torch.load(weights, weights_only=True)
        if {*state} != {*module.state_dict()}:  # parts of an adapter, which stay in the module
            for adapter in make(config.adapter).values():
                adapter.inject(module)
        module.load_state_dict(state)
        found: Stage = json.loads(done.read_text())
    else:
        folder.mkdir(parents=True, exist_ok=True)
        pool, columns = _pool(config, tasks, k)
        if ledger is None:
            ledger = folder / "base.ledger"
            with turn(folder):  # of several processes one records, the others find it done
                record(config, module, pool, ledger, columns=columns)
        units, seconds = _fit(config, module, [*tasks.values()][k], pool, ledger, folder)
        found = Stage(accuracies=[], compute_units=units, seconds=seconds)
        _end(module, found, weights, done)
    if not found["accuracies"]:
        found["accuracies"] = _measure(config, module, tasks)
        rank_zero_only(write_text)(done, json.dumps(found))
    return found


# Before anything else: what callbacks do at the end of `fit`, such as to average, is in no checkpoint.
@rank_zero_only
def _end(module: LightningModule, found: Stage, weights: Path, done: Path) -> None:
    with replacing(weights) as aside:
        torch.save(module.state_dict(), aside)
    write_text(done, json.dumps(found))
    shutil.rmtree(done.parent / "checkpoints", ignore_errors=True)


def _fit(
    config: DictConfig,
    module: LightningModule,
    task: LightningDataModule,
    pool: Pool,
    ledger: Path,
    folder: Path,
) -> tuple[int, float]:
    rehearsal, others = callbacks(config)
    outcome = Outcome(rehearsal)
    checkpoints = folder / "checkpoints"
    if config.trainer.enable_checkpointing:
        others.append(ModelCheckpoint(checkpoints))
    # Of a run that was interrupted; the CSV logger would delete it.
    if (log := folder / "logs").exists():
        log.rename(folder / f"logs_{len([*folder.glob('logs_*')])}")
    logger = make(config.logger, save_dir=str(folder))
    trainer = configured_trainer(config, logger=logger, callbacks=[rehearsal, *others, outcome])
    data = RehearsalDataModule(task, pool, mix_ratio=config.mix_ratio, ledger=ledger, order_seed=config.seed)
    seed_everything(config.seed, workers=True, verbose=False)
    start = time.perf_counter()
    trainer.fit(module, datamodule=data, ckpt_path=newest_checkpoint(checkpoints))
    seconds = time.perf_counter() - start
    outcome.collect(trainer)
    return outcome.compute_units, seconds


def _measure(config: DictConfig, module: LightningModule, tasks: Tasks) -> list[float]:
    trainer = quiet_trainer(config)
    found = [trainer.validate(module, datamodule=task, verbose=False)[0] for task in tasks.values()]
    if absent := [name for name, metrics in zip(tasks, found, strict=True) if ACCURACY not in metrics]:
        raise ValueError(
            f"`model` must log `{ACCURACY}` in validation, but it did not for {absent}. Let "
            "`validation_step` log it for the first loader."
        )
    return [metrics[ACCURACY] for metrics in found]


@rank_zero_only
def _write(record: ChainRecord, output: Path) -> None:
    tasks, matrix = record.tasks, [record.initial, *record.accuracies]
    rows = zip(["", *tasks], matrix, strict=True)
    save_rows(
        [{"stage": name, **dict(zip(tasks, row, strict=True))} for name, row in rows], output / "matrix.csv"
    )
    with replacing(output / "matrix.png") as aside:
        plot_matrices({record.name: matrix}, tasks).savefig(aside, dpi=150)
    record.write(output)
