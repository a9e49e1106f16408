"""What a finished run of `mixcd-train` was made of, for looking at it again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader

from lightning_mixcd.app.base import base_model
from lightning_mixcd.app.conf import make
from lightning_mixcd.app.run import configured_pool
from lightning_mixcd.data import Pool
from lightning_mixcd.report.records import Record, read_records
from lightning_mixcd.resume import newest_checkpoint
from lightning_mixcd.tasks import Pairing

__all__ = ["FinishedRun", "load_run"]


@dataclass(frozen=True)
class FinishedRun:
    """A run's models and data; "prior" and "new" name the tasks.

    Args:
        record: What the run measured.
        base: The base model.
        finetuned: The model at the end of the run.
        ledger: Folder of the base model's ledger.
        train: Training samples by task; those of the prior task are the pool.
        val: Validation samples by task.
    """

    record: Record
    base: LightningModule
    finetuned: LightningModule
    ledger: Path
    train: dict[str, Pool]
    val: dict[str, Pool]


def load_run(folder: Path) -> FinishedRun:
    """Load a run; its base model comes from where the run had it.

    Args:
        folder: Folder of the run.

    Returns:
        The run, both models on the CPU.

    Raises:
        ValueError: If this is no finished run of two tasks, it has an adapter, or left no weights of its end.
    """
    config = _config(folder)
    record = read_records(folder)[folder]
    path = _checkpoint(folder, record.checkpoints)
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if checkpoint["global_step"] != record.steps:
        raise ValueError(
            f"`run` must have left the weights of its end, after {record.steps} steps, but {path} is of step "
            f"{checkpoint['global_step']}. Train without `val_check_interval` and `check_val_every_n_epoch`, "
            "by which Lightning chooses when it saves."
        )
    pairing: Pairing = make(config.data)
    # The base model has learnt from all of the pool, and its own ledger is of all of that.
    config.pool_size = config.ledger = None
    pool, _ = configured_pool(config, pairing.pool, {})
    base, ledger = base_model(config, replace(pairing, pool=pool))
    finetuned: LightningModule = make(config.model)
    finetuned.load_state_dict(checkpoint["state_dict"])
    new: LightningDataModule = pairing.new
    new.prepare_data()
    new.setup("fit")
    return FinishedRun(
        record=record,
        base=base,
        finetuned=finetuned,
        ledger=ledger,
        train={"prior": pool, "new": _samples(new.train_dataloader())},
        val={"prior": _samples(pairing.prior_val), "new": _samples(new.val_dataloader())},
    )


def _config(folder: Path) -> DictConfig:
    path = folder / ".hydra" / "config.yaml"
    if not path.exists():
        raise ValueError(
            f"`run` must be the folder of one run of `mixcd-train`, but {folder} has no .hydra/config.yaml. "
            "Give a folder such as outputs/2026-01-31/12-00-00, of a sweep one of its runs."
        )
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)  # noqa: S101 -- a mapping, as Hydra wrote it
    for key, what in {"stages": "a chain of tasks", "adapter": "a run with an adapter"}.items():
        if config.get(key):
            raise ValueError(
                f"`run` must have finetuned one network from a prior task to a new one, got {what} in "
                f"{folder}. Use `lightning_mixcd.influence` from Python."
            )
    return config


def _checkpoint(folder: Path, left: Sequence[str] | None) -> Path:
    folders = sorted({path.parent for path in folder.rglob("*.ckpt")})
    found = newest_checkpoint(folders[0]) if len(folders) == 1 else None
    if found is None or not found.is_file():
        raise ValueError(
            f"`run` must have left the finetuned weights in one checkpoint, got {list(map(str, folders))} in "
            f"{folder}. Train with `trainer.enable_checkpointing=true`, which experiments turn off."
        )
    if left is not None and found.relative_to(folder).as_posix() not in left:
        raise ValueError(
            f"`run` must have left the finetuned weights itself, but {found} is of an earlier run in this "
            "folder. Train with `trainer.enable_checkpointing=true`, which experiments turn off."
        )
    return found


def _samples(loaders: Any) -> Pool:  # noqa: ANN401 -- as Lightning takes them
    loader: DataLoader[Any] = loaders[0] if isinstance(loaders, list | tuple) else loaders
    return Pool(loader.dataset, collate_fn=loader.collate_fn)
