"""The base model and its ledger: made once per configuration, then taken from disk."""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from omegaconf import DictConfig, OmegaConf

from lightning_mixcd.app.conf import make
from lightning_mixcd.record import record_ledger
from lightning_mixcd.tasks import Pairing

__all__ = ["base_model"]


def base_model(config: DictConfig, pairing: Pairing) -> tuple[LightningModule, Path]:
    """Train the base model on the prior task and record its ledger, unless that was done before.

    Args:
        config: The app's configuration; `data`, `model`, `base` and `seed` decide what is made.
        pairing: The tasks.

    Returns:
        The base model, and the folder of its ledger.
    """
    parts = {key: config[key] for key in ("data", "model", "base", "seed")}
    text = OmegaConf.to_yaml(OmegaConf.create(parts), sort_keys=True, resolve=True)
    folder = Path(config.base_dir) / hashlib.sha256(text.encode()).hexdigest()[:16]
    seed_everything(config.seed, workers=True, verbose=False)
    module: LightningModule = make(config.model)
    if not (folder / "weights.pt").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made aside and moved in one go, so that two runs at once, or one that dies, leave no half of it.
        aside = Path(tempfile.mkdtemp(dir=folder.parent))
        _train(config, module, pairing)
        record_ledger(module, pairing.pool, aside / "base.ledger")
        torch.save(module.state_dict(), aside / "weights.pt")
        (aside / "config.yaml").write_text(text)
        _move(aside, folder)
    module.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    return module, folder / "base.ledger"


def _train(config: DictConfig, module: LightningModule, pairing: Pairing) -> None:
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "limit_val_batches": 0}
    trainer: Trainer = make(config.trainer, max_epochs=config.base.max_epochs, **settings)
    trainer.fit(module, datamodule=pairing.prior)
    module.cpu()


def _move(aside: Path, folder: Path) -> None:
    try:
        aside.replace(folder)
    except OSError:
        if not (folder / "weights.pt").exists():
            raise
        shutil.rmtree(aside)  # another run was faster and made the same
