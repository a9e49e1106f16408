"""Two tasks that cannot share a batch: each has its own head, its own classes and its own batches.

The base model names digits. It is finetuned to tell which way an image of a digit was turned: other images,
four classes, a new head on the same body. `rehearsal_step` is what the old task needs; there is no other
change. Run it from anywhere: `python 05_two_heads.py`.
"""

import copy
import logging
import tempfile

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixcd import MixCD, NoRehearsal, RehearsalCallback
from lightning_mixcd.strategies import Strategy
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
    """A body, a head that names digits, and a head that tells turns."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.digit, self.turn = nn.Linear(64, 10), nn.Linear(64, 4)
        self.pretrains = True

    def step(self, head: nn.Module, batch: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        x, y = batch
        logits = head(self.body(x))
        return {"loss": cross_entropy(logits, y), "logits": logits}

    def training_step(self, batch, batch_idx):
        return self.step(self.digit if self.pretrains else self.turn, batch)

    def rehearsal_step(self, batch, batch_idx):  # the pool is of the old task, whatever is being trained
        return self.step(self.digit, batch)

    def accuracy(self, head: nn.Module, data: TensorDataset) -> float:
        x, y = data.tensors
        with torch.no_grad():
            return float((head(self.body(x)).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 3e-3)


def turned(data: TensorDataset) -> TensorDataset:
    """Images turned by no, one, two or three quarters, and that number as their class."""
    x, _ = data.tensors
    quarters = torch.arange(len(x)) % 4
    images = [image.rot90(int(k), (1, 2)) for image, k in zip(x, quarters, strict=True)]
    return TensorDataset(torch.stack(images), quarters)


def finetune(base: Reader, digits: Digits, strategy: Strategy, ledger: str) -> tuple[float, float]:
    """Teach a copy of the base model to tell turns, and measure both tasks."""
    seed_everything(0, verbose=False)
    model = copy.deepcopy(base)
    model.pretrains = False
    rehearsal = RehearsalCallback(strategy, pool=digits.prior_train, ledger=ledger, mix_ratio=0.5)
    loader = DataLoader(turned(digits.new_train), 16, shuffle=True)
    Trainer(max_epochs=10, callbacks=[rehearsal], **SETTINGS).fit(model, loader)
    return model.accuracy(model.digit, digits.prior_test), model.accuracy(model.turn, turned(digits.new_test))


if __name__ == "__main__":
    seed_everything(0, verbose=False)
    digits = Digits.load()
    base = Reader()
    loader = DataLoader(digits.prior_train, 32, shuffle=True)
    Trainer(max_epochs=10, **SETTINGS).fit(base, loader)
    before = base.accuracy(base.digit, digits.prior_test)
    print(f"base model: names {before:.1%} of the digits")

    with tempfile.TemporaryDirectory() as folder:
        ledger = f"{folder}/base.ledger"
        alone, turns_alone = finetune(base, digits, NoRehearsal(), ledger)
        kept, turns = finetune(base, digits, MixCD(), ledger)
    print(f"finetuned alone: names {alone:.1%} of the digits, tells {turns_alone:.1%} of the turns")
    print(f"with rehearsal:  names {kept:.1%} of the digits, tells {turns:.1%} of the turns")
    if kept < alone + 0.05 or turns < 0.6:
        raise SystemExit("Rehearsal must keep what the base model knew, beside what is learnt.")
