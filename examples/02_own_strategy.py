"""A strategy of your own in one file: write it, check it, use it.

The strategy remembers each sample by itself: one that was damaged when it was last rehearsed is more likely
to be rehearsed again. Run it from anywhere: `python 02_own_strategy.py`.
"""

import copy
import logging
import tempfile

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything

from lightning_mixcd import RehearsalCallback, Uniform
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.tasks import Pairing, digits_pairing, mlp
from lightning_mixcd.testing import check_strategy

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no greeting from every Trainer
SETTINGS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class RepeatDamaged(Strategy):
    """Draw a base-correct sample `factor` times as often if it was damaged when it was last rehearsed."""

    needs_ledger = True

    def __init__(self, *, factor: float = 4.0) -> None:
        self.factor = factor

    # What is drawn. All chance comes from the generator; what was learnt comes from the signal.

    def setup(self, n_pool, ledger, *, seed):
        self.weights = torch.tensor(ledger.correct).float()  # 0 for base-wrong samples: never drawn
        self.n_available = int(self.weights.sum())
        if self.n_available == 0:
            raise ValueError("`ledger` must have a sample that the base model got right.")

    def select(self, n, *, signal, generator):
        return torch.multinomial(signal, n, generator=generator)

    def signal(self):
        return self.weights

    # What is learnt. A tally is summed over processes, so it holds sums; `update` may do as it likes.

    def tally(self, outcome):
        values = torch.stack([~outcome.correct, torch.ones_like(outcome.correct)]).float()
        sums = values.new_zeros(2, len(self.weights))
        return sums.index_add_(1, outcome.index, values)

    def update(self, tally, *, steps):
        damaged, seen = tally
        weights = self.weights.to(tally.device)
        again = torch.where(damaged > 0, self.factor, 1.0)
        # A new tensor: the old one may still be on its way to the host.
        self.weights = torch.where(seen > 0, again, weights)

    # What is logged, and what a checkpoint holds.

    def metrics(self):
        return {"to_repeat": (self.weights > 1).sum().float()}

    def state_dict(self):
        return {"weights": self.weights}

    def load_state_dict(self, state):
        self.weights = state["weights"]


def finetune(base: LightningModule, digits: Pairing, strategy: Strategy, ledger: str) -> dict[str, float]:
    """Finetune a copy of the base model on the new task, and measure both tasks."""
    seed_everything(0, verbose=False)
    model = copy.deepcopy(base)
    rehearsal = RehearsalCallback(strategy, pool=digits.pool, ledger=ledger, mix_ratio=0.25)
    trainer = Trainer(max_epochs=15, callbacks=[rehearsal], **SETTINGS)
    trainer.fit(model, digits.new.train_dataloader())
    trainer.validate(model, [digits.new.val_dataloader(), digits.prior_val], verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


if __name__ == "__main__":
    check_strategy(RepeatDamaged)
    print("RepeatDamaged passes the checks that every shipped strategy passes.")

    seed_everything(0, verbose=False)
    digits = digits_pairing()  # upright digits first, then digits turned by 90 degrees
    base = mlp(n_inputs=64, n_classes=10)
    Trainer(max_epochs=10, **SETTINGS).fit(base, datamodule=digits.prior)

    with tempfile.TemporaryDirectory() as folder:
        for strategy in (Uniform(), RepeatDamaged()):
            measured = finetune(base, digits, strategy, f"{folder}/base.ledger")
            prior, new = measured["val/prior/accuracy"], measured["val/new/accuracy"]
            print(f"{type(strategy).__name__:>14}: prior task {prior:.1%}, new task {new:.1%}")
