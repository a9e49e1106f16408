"""A run that writes down all it does, as it does it, and goes on from its newest checkpoint."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import TensorDataset

from lightning_mixcd import Pool, RehearsalCallback, RehearsalDataModule, record
from lightning_mixcd.resume import ExactResume, newest_checkpoint
from tests.soak.chancy import STRATEGIES, Chancy, ChancyFinetune, Noisy
from tests.toys import N_POOL, POOL_IDS, pool, trainer, weights

COPIES = 10
EVERY_N_STEPS = 2  # a checkpoint
VALIDATE_EVERY_N_BATCHES = 3
Key: TypeAlias = tuple[int, str, int]  # rank, kind, and batch or step
Read: TypeAlias = dict[Key, Any]


@dataclass(frozen=True)
class Case:
    """What is trained."""

    strategy: str
    n_workers: int = 0
    n_processes: int = 1
    accumulate: int = 1
    saves: str = "steps"  # or "validations": when checkpoints are saved


class Notes(Logger):
    """Writes one line of JSON for everything it is told, at once."""

    name = version = None  # type: ignore[assignment]

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("a", buffering=1)

    def note(self, kind: str, at: int, value: object) -> None:
        self._file.write(json.dumps([kind, at, value]) + "\n")

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.note(f"logged {name}", step or 0, value)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass


class Noting(pl.Callback):
    """Notes what each batch was, and what is believed after it."""

    def __init__(self, notes: Notes, rehearsal: RehearsalCallback) -> None:
        self.notes, self.rehearsal = notes, rehearsal

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        loop, signal = trainer.fit_loop.epoch_loop, self.rehearsal.strategy.signal()
        for kind, value in {
            "samples": pl_module.seen[-1],
            "loss": float(outputs["loss"]),
            "rates": None if signal is None else signal.tolist(),
            "compute units": self.rehearsal.compute_units,
            "step": loop._batches_that_stepped,
        }.items():
            self.notes.note(kind, loop.total_batch_idx, value)

    def on_validation_end(self, trainer, pl_module) -> None:
        loop = trainer.fit_loop.epoch_loop
        self.notes.note("validated", loop.total_batch_idx, loop._batches_that_stepped)


@cache
def large_pool() -> TensorDataset:
    """The pool several times over, so that recording it takes several batches."""
    x, y = pool().tensors
    ids = POOL_IDS + torch.arange(COPIES * N_POOL).float()
    return TensorDataset(torch.cat([x[:, :-1].repeat(COPIES, 1), ids[:, None]], 1), y.repeat(COPIES))


def train(folder: Path, case: Case, attempt: int, rank: int) -> None:
    """Train to the end, from the newest checkpoint in the folder.

    Args:
        folder: Where ledger, checkpoints and notes are kept, through all attempts.
        case: What to train.
        attempt: How often the run was killed before.
        rank: This process.
    """
    record.FLUSH_EVERY_N_BATCHES = 1
    pl.seed_everything(7 + rank, verbose=False)
    notes = Notes(folder / notes_name(attempt, rank))
    rehearsal = RehearsalCallback(STRATEGIES[case.strategy](), seed=3)
    data = RehearsalDataModule(
        ChancyFinetune(batch_size=4, shuffle=True, num_workers=case.n_workers),
        Pool(Noisy(large_pool()), num_workers=case.n_workers),
        ledger=folder / "base.ledger",
        mix_ratio=0.4,
        order_seed=11,
    )
    every = {"every_n_train_steps": EVERY_N_STEPS} if case.saves == "steps" else {}
    keep = ModelCheckpoint(folder / "checkpoints", filename="{step}", save_last=True, **every)
    module = Chancy()
    run = trainer(
        rehearsal,
        Noting(notes, rehearsal),
        ExactResume(),
        keep,
        max_epochs=4,
        accumulate_grad_batches=case.accumulate,
        val_check_interval=VALIDATE_EVERY_N_BATCHES,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=notes,
        enable_checkpointing=True,
        **({"strategy": "ddp", "devices": 2} if case.n_processes == 2 else {}),
    )
    run.fit(module, datamodule=data, ckpt_path=newest_checkpoint(folder / "checkpoints"))
    notes.note("weights", run.fit_loop.epoch_loop.total_batch_idx + 1, weights(module).tolist())


def notes_name(attempt: int, rank: int) -> str:
    return f"attempt{attempt}.rank{rank}.jsonl"


def read_notes(folder: Path, case: Case, attempt: int) -> Read:
    """What an attempt noted.

    Raises:
        ValueError: If it noted two different things of one kind at one place.
    """
    found: Read = {}
    for rank in range(case.n_processes):
        path = folder / notes_name(attempt, rank)
        # Lines are written whole, but for the one at which the process died.
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        for line in lines:
            if line.endswith("\n"):
                kind, at, value = json.loads(line)
                if found.setdefault((rank, kind, at), value) != value:
                    raise ValueError(
                        f"{path} says two things of {kind} at {at}: {found[rank, kind, at]}, {value}"
                    )
    return found
