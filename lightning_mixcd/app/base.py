"""The base model and its ledger: made once per configuration, then taken from disk."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch import LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf, open_dict
from torch.utils.data import Dataset

from lightning_mixcd.app.conf import make
from lightning_mixcd.app.run import quiet_trainer, separate_processes
from lightning_mixcd.capture import Readout
from lightning_mixcd.data.pool import Pool, as_pool
from lightning_mixcd.data.worker import in_worker
from lightning_mixcd.ledger import Ledger, fingerprint_pool
from lightning_mixcd.ledger.pool_fingerprint import pool_difference
from lightning_mixcd.record import open_if_recorded, record_ledger
from lightning_mixcd.report.files import replacing, write_text
from lightning_mixcd.tasks import Pairing
from lightning_mixcd.wiring import rehearsal_step

__all__ = ["base_model", "hash_of", "own_folder", "record", "turn"]

# Arguments of the Trainer that say how finetuning goes: base models are shared by runs that differ in them.
OF_FINETUNING = (
    "accumulate_grad_batches",
    "callbacks",
    "fast_dev_run",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "max_steps",
    "max_time",
    "min_epochs",
    "min_steps",
    "overfit_batches",
)

# Of the others, those by which base models differ.
OF_BOTH = ("devices", "num_nodes", "precision")

TOGETHER = (
    "The base model in `{folder}` must not be made by another run meanwhile, since processes beside this one "
    "would wait for it in their training. Make it beforehand: `mixcd-record` with the same options."
)
OCCUPIED = (
    "`hydra.run.dir` must be a folder that no other run is writing to, but one is at work in {folder}. Wait "
    "for it, or give this run another folder; in a sweep, hydra.sweep.subdir='${{hydra.job.num}}' numbers "
    "them. Loader workers of a run that was killed take some seconds to end."
)


def base_model(config: DictConfig, pairing: Pairing) -> tuple[LightningModule, Path]:
    """Train the base model on the prior task and record its ledger, unless that was done before.

    What was interrupted goes on where it stopped: after the training, or within the recording. No ledger is
    recorded where one is given.

    Args:
        config: The app's configuration; `data`, `model`, `base` and `seed` decide what is made, but for
            `model.lr` where `base.lr` is given, and of `trainer` the precision and the number of processes.
        pairing: The tasks.

    Returns:
        The base model, ready to be finetuned with `model.lr`, and the folder of its ledger, or of `ledger`.

    Raises:
        ValueError: If the base model that is there was trained on other data.
        LedgerError: If `ledger` is given and is none, or of another pool.
    """
    if config.ledger:
        open_if_recorded(Ledger.open(config.ledger, verify=False), as_pool(pairing.pool))
    before, config = config, _pretraining(config)
    parts = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "model", "base")}
    parts["trainer"] = {name: config.trainer[name] for name in OF_BOTH if name in config.trainer}
    name, text = hash_of({**parts, "seed": config.seed})
    folder = Path(config.base_dir) / name
    folder.mkdir(parents=True, exist_ok=True)
    weights, trainer = folder / "weights.pt", quiet_trainer(config)
    together = separate_processes(trainer) and not weights.exists()
    if together and trainer.global_rank > 0:
        _trained(config, pairing)  # beside the first process, which keeps what comes of it
    # Runs of a sweep that need the same base model wait for the one that makes it; see design note 020.
    waits = not together or trainer.global_rank > 0
    with turn(folder, refusal=None if waits else TOGETHER.format(folder=folder)):
        _check_data(config, pairing, folder, made=weights.exists())
        if not weights.exists():
            (folder / "config.yaml").write_text(text)
            state = _trained(config, pairing).state_dict()
            with replacing(weights) as aside:
                torch.save(state, aside)
        module: LightningModule = make(before.model)
        module.load_state_dict(torch.load(weights, weights_only=True))
        if config.ledger:
            return module, Path(config.ledger)
        # Runs that rehearse a part of the pool have ledgers of their own.
        part = "" if config.pool_size is None else f"_{config.pool_size}"
        ledger = folder / f"base{part}.ledger"
        record(config, module, pairing.pool, ledger, columns=pairing.columns)
    return module, ledger


@contextmanager
def turn(folder: Path, *, refusal: str | None = None) -> Iterator[None]:
    """Keep other processes out of a folder.

    Args:
        folder: The folder.
        refusal: What to say if another process is there; None waits for it.

    Yields:
        Nothing.

    Raises:
        RuntimeError: If there is one, and it is not to be waited for.
    """
    lock = FileLock(folder / "lock", timeout=-1 if refusal is None else 0)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(refusal) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def own_folder(config: DictConfig) -> Iterator[Path]:
    """Keep other runs out of the folder of this one, as long as it lasts.

    Args:
        config: The app's configuration.

    Yields:
        The folder.

    Raises:
        RuntimeError: If another run is there.
    """
    output = Path(HydraConfig.get().runtime.output_dir)
    if quiet_trainer(config).global_rank > 0:
        yield output  # beside the first process, which has the lock
        return
    output.mkdir(parents=True, exist_ok=True)
    with turn(output, refusal=OCCUPIED.format(folder=output)):
        yield output
        # One that was kept out has written its own there before it was.
        if (known := output / ".hydra" / "config.yaml").exists():
            write_text(known, OmegaConf.to_yaml(config))


def hash_of(values: Mapping[str, Any]) -> tuple[str, str]:
    """Name a configuration by what is in it.

    Args:
        values: What is in it, resolved.

    Returns:
        The name, and what it stands for.
    """
    text = OmegaConf.to_yaml(OmegaConf.create(dict(values)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16], text


def record(
    config: DictConfig,
    module: LightningModule,
    pool: Pool | Dataset[Any],
    path: Path,
    *,
    columns: Mapping[str, Any],
) -> None:
    """Record the ledger of a model on the device and in the precision of training, unless there is one.

    Args:
        config: The app's configuration.
        module: The model; on the CPU afterwards.
        pool: The pretrain samples.
        path: Folder of the ledger.
        columns: Further columns to keep.
    """
    trainer = quiet_trainer(config)
    module.to(trainer.strategy.root_device)
    with trainer.precision_plugin.forward_context():
        keep, readout = config.base.keep, _readout(config)
        record_ledger(module, pool, path, columns=columns, keep=keep, readout=readout)
    module.cpu()


def _readout(config: DictConfig) -> Readout:
    return Readout(embedding=config.base.get("embedding"))


# What the base model is made by.
def _pretraining(config: DictConfig) -> DictConfig:
    config = config.copy()
    with open_dict(config):
        if config.base.get("lr") is not None:
            config.model.lr = config.base.lr
        # As long as all is there that these may be interpolated from.
        for node in (config.data, config.model, config.base):
            OmegaConf.resolve(node)
        config.base.pop("lr", None)
        if config.base.get("embedding") is None:
            config.base.pop("embedding", None)  # names of folders are older than it
        kept = [name for name in config.trainer if name not in OF_FINETUNING]
        config.trainer = {name: config.trainer[name] for name in kept}
    return config


# Weights are found by options, which say nothing about what is in the files that these name.
def _check_data(config: DictConfig, pairing: Pairing, folder: Path, *, made: bool) -> None:
    pool, known = as_pool(pairing.pool), folder / "pool.json"
    if made and not known.exists():
        return  # made before there was such a file
    # The base model learns from all, also where a part is rehearsed; see `configured_pool`.
    samples: Any = pool.dataset
    whole = samples if config.pool_size is None else samples.dataset
    read = partial(fingerprint_pool, whole, unreadable=pool.unreadable)
    given = in_worker(read, pool.num_workers)
    if not made:
        write_text(known, json.dumps(given))
    elif difference := pool_difference(json.loads(known.read_text(encoding="utf-8")), given):
        raise ValueError(
            f"`data` must hold what the base model in `{folder}` was trained on, got other samples "
            f"({difference}). Give the files as they were, or delete the folder to train and record anew."
        )


def _trained(config: DictConfig, pairing: Pairing) -> LightningModule:
    seed_everything(config.seed, workers=True, verbose=False)
    module: LightningModule = make(config.model)
    if "features" in config.base.keep and not config.ledger:
        _readout(config).attach(module, with_features=True).close()  # fails before what takes long
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
    trainer: Trainer = make(config.trainer, max_epochs=config.base.max_epochs, **settings)
    # A module with a step of its own for pool rows learns their task by that.
    step = rehearsal_step(module)
    if step is not None:
        module.__dict__["training_step"] = step
    trainer.fit(module, datamodule=pairing.prior)
    return module.cpu()
