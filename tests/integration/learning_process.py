"""One of the processes of `test_learning_ddp.py`; writes down what it saw."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy

from lightning_mixcd import (
    HeadProbe,
    LossProportional,
    Pool,
    ProbeMatching,
    RehearsalCallback,
    RehearsalDataModule,
)
from lightning_mixcd.resume import ExactResume
from tests.integration.launching import joined
from tests.integration.one_process import LAG
from tests.penalties.replay import full_ledger
from tests.toys import Finetune, OnBatchEnd, Toy, pool, trainer, weights

STRATEGIES = {
    "head_probe": lambda: HeadProbe(candidates_per_row=4),
    "probe_matching": ProbeMatching,
    "loss": LossProportional,
}
CUT = 3  # in the middle of a lesson


def fit(folder: Path, name: str, *, seed: int, ckpt_path: Any = None) -> dict[str, Any]:
    pl.seed_everything(seed, verbose=False)
    module, features, signals, rows = Toy(lr=0.1), [], [], []
    module.net[-1].register_forward_pre_hook(lambda _head, inputs: features.append(inputs[0].detach()))
    callback = RehearsalCallback(STRATEGIES[name]())

    def note(run: pl.Trainer, _module: Any, outputs: Any, batch: Any) -> None:
        ticket, logits, label = callback._session._ticket, outputs["logits"].detach(), batch[1]
        n = len(ticket["index"])
        signals.append(callback.strategy.signal().tolist())
        seen = {
            "index": ticket["index"],
            "right": logits.argmax(1) == label,
            "loss": cross_entropy(logits, label, reduction="none"),
            "features": features[-1],
            "place": ticket.get("place", ticket["index"]),
            "margin": ticket.get("margin", ticket["index"]),
        }
        rows.append([{key: values[i].tolist() for key, values in seen.items()} for i in range(-n, 0)])

    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    data = RehearsalDataModule(
        Finetune(shuffle=True), Pool(pool(), lag=LAG), ledger=full_ledger(), mix_ratio=0.5, order_seed=4
    )
    settings = {"strategy": "ddp", "devices": 2, "max_epochs": 3, "enable_checkpointing": True}
    trainer(callback, OnBatchEnd(note), ExactResume(), keep, **settings).fit(
        module, datamodule=data, ckpt_path=ckpt_path
    )
    return {"seen": module.seen, "rows": rows, "signals": signals, "weights": weights(module).tolist()}


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # this is no test; the tests read what it writes
    found = {}
    with joined(2, folder / "store"):
        for name in STRATEGIES:
            found[name] = fit(folder / name, name, seed=1)
            checkpoint = folder / name / f"step={CUT}.ckpt"
            found[f"{name} resumed"] = fit(folder / "resumed", name, seed=2, ckpt_path=checkpoint)
    (folder / f"rank{os.environ['LOCAL_RANK']}.json").write_text(json.dumps(found))
