"""The base model and its ledger: made once per configuration, then taken from disk."""

import hashlib
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from lightning.pytorch import LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf

from lightning_mixcd.app.conf import make
from lightning_mixcd.record import record_ledger
from lightning_mixcd.report.files import replacing
from lightning_mixcd.tasks import Pairing
from lightning_mixcd.wiring import rehearsal_step

__all__ = ["base_model"]


def base_model(config: DictConfig, pairing: Pairing) -> tuple[LightningModule, Path]:
    """Train the base model on the prior task and record its ledger, unless that was done before.

    What was interrupted goes on where it stopped: after the training, or within the recording.

    Args:
        config: The app's configuration; `data`, `model`, `base` and `seed` decide what is made.
        pairing: The tasks.

    Returns:
        The base model, and the folder of its ledger.
    """
    parts = {key: OmegaConf.to_container(config[key], resolve=True) for key in ("data", "model", "base")}
    text = OmegaConf.to_yaml(OmegaConf.create({**parts, "seed": config.seed}), sort_keys=True)
    folder = Path(config.base_dir) / hashlib.sha256(text.encode()).hexdigest()[:16]
    seed_everything(config.seed, workers=True, verbose=False)
    module: LightningModule = make(config.model)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.pt"
    # Runs of a sweep that need the same base model wait for the one that makes it.
    with FileLock(folder / "lock"):
        if weights.exists():
            module.load_state_dict(torch.load(weights, weights_only=True))
        else:
            (folder / "config.yaml").write_text(text)
            _train(config, module, pairing)
            with replacing(weights) as aside:
                torch.save(module.state_dict(), aside)
        record_ledger(
            module, pairing.pool, folder / "base.ledger", columns=pairing.columns, keep=config.base.keep
        )
    return module, folder / "base.ledger"


def _train(config: DictConfig, module: LightningModule, pairing: Pairing) -> None:
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
    trainer: Trainer = make(config.trainer, max_epochs=config.base.max_epochs, **settings)
    # A module with a step of its own for pool rows learns their task by that.
    step = rehearsal_step(module)
    if step is not None:
        module.__dict__["training_step"] = step
    trainer.fit(module, datamodule=pairing.prior)
    module.__dict__.pop("training_step", None)
    module.cpu()
