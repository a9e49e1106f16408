"""One of two processes of `test_ddp.py`; writes down what it saw."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from lightning_mixcd import MixCD, Oracle, Pool, RehearsalCallback, RehearsalDataModule
from lightning_mixcd.resume import ExactResume
from tests.toys import Finetune, Listed, OnBatchEnd, Toy, finetune, pool, trainer, weights

DDP: dict[str, Any] = {"strategy": "ddp", "devices": 2, "max_epochs": 2}


def damaged(base_correct: Any, outputs: Any, batch: Any) -> int:
    """Rows of the pool that this process now has wrong and the base model had right."""
    (x, y), logits = batch, outputs["logits"].detach()
    index = (x[:, -1] - 1000).int().tolist()
    return sum(
        bool(base_correct[i]) and int(logits[row].argmax()) != int(y[row])
        for row, i in enumerate(index)
        if i >= 0
    )


class Uneven(Toy):
    """Each process takes chances of its own, as where every rank augments differently."""

    def on_train_start(self) -> None:
        torch.manual_seed(self.trainer.global_rank)


def fit(
    folder: Path,
    strategy: Any,
    *,
    data: Any,
    seed: int,
    ckpt_path: Any = None,
    keep: bool = False,
    **given: Any,
) -> dict[str, Any]:
    pl.seed_everything(seed, verbose=False)
    module, logger, rates, counts = Uneven(dropout=0.3, lr=0.2), Listed(), [], []
    callback = RehearsalCallback(strategy, **given)

    def note(run: pl.Trainer, _module: Any, outputs: Any, batch: Any) -> None:
        rates.append(callback.strategy.signal().tolist())
        counts.append(damaged(callback._session.ledger.correct, outputs, batch))

    callbacks = [callback, OnBatchEnd(note), ExactResume()]
    if keep:
        callbacks.append(ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1))
    run = trainer(*callbacks, logger=logger, log_every_n_steps=2, enable_checkpointing=keep, **DDP)
    loader = data if isinstance(data, DataLoader) else None
    run.fit(module, loader, datamodule=None if loader else data, ckpt_path=ckpt_path)
    return {
        "rank": run.global_rank,
        "seen": module.seen,
        "rates": rates,
        "damaged": counts,
        "logged": logger.rows,
        "weights": weights(module).tolist(),
        "units": callback.compute_units,
        "rows_forwarded": module.rows_forwarded,
        "sampler": type(getattr(run.train_dataloader, "sampler", None)).__name__,
        "split": isinstance(getattr(run.train_dataloader, "sampler", None), DistributedSampler),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # this is no test; the tests read what it writes
    path = folder / "base.ledger"
    plain = DataLoader(finetune(), 8)
    settings = {"pool": Pool(pool(), lag=2), "ledger": path, "mix_ratio": 0.5}
    found = {
        "recording": fit(folder, MixCD(), data=plain, seed=1, **settings),
        "again": fit(folder, MixCD(), data=plain, seed=1, **settings),
        "workers": fit(
            folder, MixCD(), data=plain, seed=1, **settings | {"pool": Pool(pool(), num_workers=1, lag=2)}
        ),
        "oracle": fit(folder, Oracle(every_n_steps=2), data=plain, seed=1, **settings),
    }

    def ordered() -> RehearsalDataModule:
        earlier = Pool(pool(), lag=4)
        return RehearsalDataModule(Finetune(shuffle=True), earlier, ledger=path, mix_ratio=0.5, order_seed=4)

    for name in ("mixcd", "oracle"):
        made = MixCD if name == "mixcd" else lambda: Oracle(every_n_steps=2)
        kept = folder / name
        found[f"{name} whole"] = fit(kept, made(), data=ordered(), seed=2, keep=True)
        for step in (3, 5):
            checkpoint = kept / f"step={step}.ckpt"
            found[f"{name} resumed {step}"] = fit(
                folder / "resumed", made(), data=ordered(), seed=3, keep=True, ckpt_path=checkpoint
            )
    rank = found["again"]["rank"]
    (folder / f"rank{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
