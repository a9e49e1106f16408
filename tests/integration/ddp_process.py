"""One of the processes of `test_ddp.py`; writes down what it saw."""

import json
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, DistributedSampler

from lightning_mixcd import EveryNSteps, MixCD, Oracle, Pool, RehearsalCallback, RehearsalDataModule
from lightning_mixcd.penalties import DER
from lightning_mixcd.resume import ExactResume
from lightning_mixcd.strategies import Strategy
from tests.integration.launching import joined
from tests.integration.one_process import LAG
from tests.toys import (
    N_FINETUNE,
    POOL_IDS,
    Finetune,
    Listed,
    OnBatchEnd,
    Toy,
    finetune,
    ledger,
    pool,
    trainer,
    weights,
)

N_BATCHES = 7
# Rows of finetune batch b of rank r, and whatever else differs.
CASES: dict[str, dict[str, Any]] = {
    "even": {"rows": lambda r, b: 4, "mix_ratio": 0.5},
    "uneven": {"rows": lambda r, b: 4 + 4 * r, "mix_ratio": 0.5},
    "uneven last batch": {"rows": lambda r, b: 4 if b < N_BATCHES - 1 else 1 + r, "mix_ratio": 1},
    "few rows": {"rows": lambda r, b: 1 + 2 * r, "mix_ratio": 0.25},
    "every second step": {"rows": lambda r, b: 4 + 2 * r, "mix_ratio": 1, "schedule": EveryNSteps(2)},
    "accumulated": {"rows": lambda r, b: 2 + 3 * r, "mix_ratio": 0.5, "accumulate": 2},
}
N_SPENT = 6  # steps that a budget of 250 allows the uneven case
CHANGES = [(2, 4), (4, 2), (2, 1), (2, 2)]


def damaged(base_correct: Any, outputs: Any, batch: Any) -> int:
    """Rows of the pool that this process now has wrong and the base model had right."""
    return sum(bool(base_correct[i]) and not right for i, right in pool_rows(outputs, batch))


def pool_rows(outputs: Any, batch: Any) -> list[tuple[int, bool]]:
    """Index of each pool row of a batch, and whether this process now has it right."""
    (x, y), logits = batch, outputs["logits"].detach()
    index = (x[:, -1] - POOL_IDS).int().tolist()
    return [(i, int(logits[row].argmax()) == int(y[row])) for row, i in enumerate(index) if i >= 0]


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
    n: int = 2,
    ckpt_path: Any = None,
    keep: int = 0,
    fitting: dict[str, Any] | None = None,
    **given: Any,
) -> dict[str, Any]:
    pl.seed_everything(seed, verbose=False)
    module, logger, rates, rows, counts = Uneven(dropout=0.3, lr=0.2), Listed(), [], [], []
    callback = RehearsalCallback(strategy, **given)
    callback.looks_are_free = isinstance(strategy, Oracle)

    def note(run: pl.Trainer, _module: Any, outputs: Any, batch: Any) -> None:
        rates.append(callback.strategy.signal().tolist())
        rows.append(pool_rows(outputs, batch))
        counts.append(damaged(callback._session.ledger.correct, outputs, batch))

    callbacks = [callback, OnBatchEnd(note), ExactResume()]
    if keep:
        callbacks.append(ModelCheckpoint(folder, filename="{step}", every_n_train_steps=keep, save_top_k=-1))
    settings = {"strategy": "ddp", "devices": n, "max_epochs": 2, "log_every_n_steps": 2, **(fitting or {})}
    run = trainer(*callbacks, logger=logger, enable_checkpointing=bool(keep), **settings)
    loader = data if isinstance(data, DataLoader) else None
    run.fit(module, loader, datamodule=None if loader else data, ckpt_path=ckpt_path)
    return {
        "seen": module.seen,
        "rates": rates,
        "rows": rows,
        "damaged": counts,
        "logged": logger.rows,
        "weights": weights(module).tolist(),
        "units": callback.compute_units,
        "rows_forwarded": module.rows_forwarded,
        "split": isinstance(getattr(run.train_dataloader, "sampler", None), DistributedSampler),
    }


def case(folder: Path, name: str, n: int, strategy: Strategy | None = None, **given: Any) -> dict[str, Any]:
    """A run whose finetune batches are the user's own on each process."""
    settings, rank = CASES[name], int(os.environ["LOCAL_RANK"])
    batches = [
        [(17 * b + i) % N_FINETUNE for i in range(settings["rows"](rank, b))] for b in range(N_BATCHES)
    ]
    return fit(
        folder,
        strategy or MixCD(),
        # Its own generator: a loader seeds its workers, also where it has none, from the global one.
        data=DataLoader(finetune(), batch_sampler=batches, generator=torch.Generator()),
        seed=1,
        n=n,
        pool=Pool(pool(), lag=LAG),
        ledger=ledger(),
        mix_ratio=settings["mix_ratio"],
        schedule=settings.get("schedule"),
        fitting={
            "use_distributed_sampler": False,
            "accumulate_grad_batches": settings.get("accumulate", 1),
        },
        **given,
    )


def two_processes(folder: Path) -> dict[str, Any]:
    """What only needs more than one process."""
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
    few = {"pool": Pool(pool(), lag=2, batch_size=8), "mix_ratio": 0.5}
    logits = {"penalties": [DER()], "ledger": folder / "logits.ledger", **few}
    found["shared recording"] = fit(folder, MixCD(), data=plain, seed=1, **logits)
    found["shared looks"] = fit(folder, Oracle(every_n_steps=2), data=plain, seed=1, ledger=path, **few)

    for name, strategy in (("mixcd", MixCD()), ("oracle", Oracle(every_n_steps=2))):
        kept, n = folder / f"{name} spent", N_SPENT if name == "mixcd" else 0
        found[f"{name} spent"] = case(kept, "uneven", 2, strategy, max_compute_units=250, keep=n)
    ended = folder / "mixcd spent" / f"step={N_SPENT}.ckpt"
    found["spent resumed"] = case(folder / "resumed", "uneven", 2, max_compute_units=250, ckpt_path=ended)

    def ordered() -> RehearsalDataModule:
        earlier = Pool(pool(), lag=4)
        return RehearsalDataModule(Finetune(shuffle=True), earlier, ledger=path, mix_ratio=0.5, order_seed=4)

    for name in ("mixcd", "oracle"):
        made = MixCD if name == "mixcd" else lambda: Oracle(every_n_steps=2)
        kept = folder / name
        found[f"{name} whole"] = fit(kept, made(), data=ordered(), seed=2, keep=1)
        for step in (3, 5):
            checkpoint = kept / f"step={step}.ckpt"
            found[f"{name} resumed {step}"] = fit(
                folder / "resumed", made(), data=ordered(), seed=3, keep=1, ckpt_path=checkpoint
            )
    return found


def cases(folder: Path, n: int) -> dict[str, Any]:
    """The same with every number of processes; one keeps a checkpoint of the end of its first epoch."""
    kept = folder / f"{n} processes"
    return {f"{n}: {name}": case(kept, name, n, keep=N_BATCHES * (name == "uneven")) for name in CASES}


def changed(folder: Path, before: int, after: int) -> dict[str, Any]:
    """The second epoch with another number of processes than the first."""
    checkpoint = folder / f"{before} processes" / f"step={N_BATCHES}.ckpt"
    run = case(folder / "resumed", "uneven", after, keep=N_BATCHES, ckpt_path=checkpoint)
    return {f"{before} to {after}": run}


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # this is no test; the tests read what it writes
    stages = [
        (2, partial(two_processes, folder)),
        *((n, partial(cases, folder, n)) for n in (1, 2, 4)),
        *((after, partial(changed, folder, before, after)) for before, after in CHANGES),
    ]
    rank, found = int(os.environ["LOCAL_RANK"]), {}
    for number, (n, make) in enumerate(stages):
        if rank < n:
            with joined(n, folder / f"store{number}"):
                found |= make()
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
