"""Rehearsal for an existing Trainer and module: the same finetuning without and with one callback.

The prior task is reading digits, the new task is reading digits turned by 90 degrees. The data ship with
scikit-learn. Run it from anywhere: `python 01_quickstart.py`.
"""

import copy
import logging
import tempfile

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DataLoader

from lightning_mixcd import MixCD, RehearsalCallback
from lightning_mixcd.tasks import Digits

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no greeting from every Trainer

SETTINGS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Reader(LightningModule):
    """An ordinary module. It knows nothing of rehearsal; it only returns its logits beside the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.network(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    def test_step(self, batch, batch_idx):
        images, labels = batch
        right = self.network(images).argmax(dim=1) == labels
        self.log("accuracy", right.float().mean(), batch_size=len(labels))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def accuracy(model: Reader, data: torch.utils.data.Dataset) -> float:
    """Measure the model on a dataset."""
    trainer = Trainer(**SETTINGS)
    return trainer.test(model, DataLoader(data, batch_size=600), verbose=False)[0]["accuracy"]


def finetune(base: Reader, digits: Digits, *callbacks: RehearsalCallback) -> Reader:
    """Finetune a copy of the base model on the new task."""
    seed_everything(0, verbose=False)
    model = copy.deepcopy(base)
    trainer = Trainer(max_epochs=15, callbacks=list(callbacks), **SETTINGS)
    trainer.fit(model, DataLoader(digits.new_train, batch_size=32, shuffle=True))
    return model


if __name__ == "__main__":
    digits = Digits.load(shift="rot90")

    seed_everything(0, verbose=False)
    base = Reader()
    pretrain = DataLoader(digits.prior_train, batch_size=32, shuffle=True)
    Trainer(max_epochs=10, **SETTINGS).fit(base, pretrain)

    with tempfile.TemporaryDirectory() as folder:
        # The only line that rehearsal needs. Your ledger should live where it stays, beside the base weights.
        rehearsal = RehearsalCallback(
            MixCD(), pool=digits.prior_train, ledger=f"{folder}/base.ledger", mix_ratio=0.25
        )
        models = {
            "base model": base,
            "finetuned": finetune(base, digits),
            "finetuned with rehearsal": finetune(base, digits, rehearsal),
        }

    for name, model in models.items():
        prior, new = accuracy(model, digits.prior_test), accuracy(model, digits.new_test)
        print(f"{name:>24}: prior task {prior:.1%}, new task {new:.1%}")
