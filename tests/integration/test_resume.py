"""k steps, checkpoint, k steps equals 2k steps: draws, rates, weights, logged values, compute units."""

import csv
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

from lightning_mixcd import (
    ClassBalanced,
    DecayedBeta,
    MixCD,
    NoRehearsal,
    Oracle,
    Pool,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    UniformCorrect,
)
from lightning_mixcd.estimators import LastBatch, RunningMean, Static
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.resume import ExactResume
from tests.toys import Finetune, Listed, OnBatchEnd, Toy, finetune, ledger, pool, trainer, weights

pytestmark = [
    # Resumed runs write beside the uninterrupted one or into a folder of their own; both are meant.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
    # Lightning says so of every module with transfer hooks that is fitted with a datamodule.
    pytest.mark.filterwarnings(
        "ignore:You have overridden `on_.*_batch_transfer` in `LightningModule`:UserWarning"
    ),
]

STRATEGIES = {
    "none": NoRehearsal,
    "uniform": Uniform,
    "uniform_correct": UniformCorrect,
    "class_balanced": ClassBalanced,
    "mixcd": MixCD,
    "mixcd_wrong_share": lambda: MixCD(wrong_share=0.3),
    "mixcd_decayed": lambda: MixCD(partition=ByLabel(), estimator=DecayedBeta(halflife_steps=3)),
    "mixcd_running": lambda: MixCD(partition=ByLabel(), estimator=RunningMean()),
    "mixcd_last": lambda: MixCD(partition=ByLabel(), estimator=LastBatch()),
    "mixcd_static": lambda: MixCD(partition=ByLabel(), estimator=Static([0.1, 0.2, 0.7])),
    "oracle": lambda: Oracle(every_n_steps=2),
}


def draw() -> float:
    """A number that needs every global source."""
    return float(torch.rand(())) + random.random() + float(np.random.rand())  # noqa: NPY002


class Noisy(Dataset):
    """Random augmentation, as image datasets have it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        x, y = self.dataset[index]
        return torch.cat([x[:-1] + 0.1 * draw(), x[-1:]]), y


class Chancy(Toy):
    """Takes chances wherever a module can: dropout, transforms on host and device, validation."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3, lr=0.1)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return torch.cat([x[:, :-1] + 0.1 * draw(), x[:, -1:]], 1), y

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        x, y = batch
        return torch.cat([x[:, :-1] + 0.1 * draw(), x[:, -1:]], 1), y

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        draw()
        super().validation_step(batch, batch_idx)


class ChancyFinetune(Finetune):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Noisy(finetune()), **self.settings)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(finetune(), 20, shuffle=True)


@dataclass
class Run:
    """What a run was, step by step."""

    seen: list[list[int]]
    logged: dict[int, dict[str, float]]
    weights: torch.Tensor
    units: int
    rates: dict[int, Any] = field(default_factory=dict)


def train(
    strategy: str,
    folder: Path | str,
    ckpt_path: Any = None,
    *,
    seed: int = 7,
    pool_workers: int = 0,
    finetune_workers: int = 0,
    **settings: Any,
) -> Run:
    pl.seed_everything(seed, verbose=False)
    module, rates, logger = Chancy(), {}, Listed()
    callback = RehearsalCallback(STRATEGIES[strategy](), seed=3)
    data = RehearsalDataModule(
        ChancyFinetune(batch_size=8, shuffle=True, num_workers=finetune_workers),
        Pool(Noisy(pool()), num_workers=pool_workers),
        ledger=ledger(),
        mix_ratio=0.4,
        order_seed=11,
    )
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)

    def note(run: pl.Trainer, *_: Any) -> None:
        signal = callback.strategy.signal()
        rates[run.fit_loop.epoch_loop.total_batch_idx] = None if signal is None else signal.tolist()

    trainer(
        callback,
        OnBatchEnd(note),
        ExactResume(),
        keep,
        **{
            "max_epochs": 3,
            "val_check_interval": 3,
            "logger": logger,
            "log_every_n_steps": 2,
            "enable_checkpointing": True,
            **settings,
        },
    ).fit(module, datamodule=data, ckpt_path=ckpt_path)
    logged = {}
    for step, row in logger.rows:
        logged.setdefault(step, {}).update(row)
    return Run(module.seen, logged, weights(module), callback.compute_units, rates)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, each made once, with a checkpoint of every step."""

    @cache
    def made(strategy: str, **settings: Any) -> tuple[Run, Path]:
        folder = tmp_path_factory.mktemp("whole")
        return train(strategy, folder, **settings), folder

    return made


@pytest.fixture
def check(whole, tmp_path):
    """Resume from a step and compare with the uninterrupted run."""

    def checked(strategy: str, step: int, **settings: Any) -> None:
        expected, folder = whole(strategy, **settings)
        # Another seed: whatever is taken from the global states must come from the checkpoint.
        got = train(strategy, tmp_path, folder / f"step={step}.ckpt", seed=99, **settings)
        assert_continues(got, expected, step)

    return checked


def assert_continues(got: Run, expected: Run, step: int) -> None:
    done = len(expected.seen) - len(got.seen)
    assert len(got.seen) > 0
    assert got.seen == expected.seen[done:]
    assert got.rates == {batch: rates for batch, rates in expected.rates.items() if batch >= done}
    assert torch.equal(got.weights, expected.weights)
    assert got.units == expected.units
    later = {at: row for at, row in expected.logged.items() if at >= step}
    assert got.logged == later
    assert any("rehearsal/compute_units" in row for row in later.values())


# 5 batches an epoch; validation after the third.
@pytest.mark.parametrize("step", [2, 3, 5, 9])
@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_resumed_run_is_the_uninterrupted_one(strategy, step, check):
    check(strategy, step)


@pytest.mark.slow
@pytest.mark.parametrize("step", [3, 5, 7])
@pytest.mark.parametrize(("pool_workers", "finetune_workers"), [(2, 0), (0, 2), (2, 2)])
def test_with_workers(pool_workers, finetune_workers, step, check):
    check("mixcd", step, pool_workers=pool_workers, finetune_workers=finetune_workers)


def test_workers_do_not_change_the_run(whole):
    assert torch.equal(
        whole("mixcd")[0].weights, whole("mixcd", pool_workers=2, finetune_workers=2)[0].weights
    )
    assert whole("mixcd")[0].logged == whole("mixcd", pool_workers=2, finetune_workers=0)[0].logged


# 2 optimizer steps an epoch, of 3 and of 2 batches.
@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("strategy", ["mixcd_decayed", "oracle"])
def test_with_gradient_accumulation(strategy, step, check):
    check(strategy, step, accumulate_grad_batches=3, log_every_n_steps=1)


@pytest.mark.parametrize("step", [2, 4])
def test_with_shortened_epochs(step, check):
    check("mixcd", step, limit_train_batches=4)


def test_checkpoint_at_the_end_of_an_epoch(tmp_path):
    """The default of `ModelCheckpoint`: after the validation that ends the epoch."""

    def fit(module, folder, ckpt_path=None):
        data = RehearsalDataModule(ChancyFinetune(shuffle=True), pool(), ledger=ledger(), order_seed=1)
        keep = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
        trainer(RehearsalCallback(MixCD()), ExactResume(), keep, max_epochs=3, enable_checkpointing=True).fit(
            module, datamodule=data, ckpt_path=ckpt_path
        )
        return module

    pl.seed_everything(1, verbose=False)
    expected = fit(Chancy(), tmp_path / "whole")
    for epoch in (0, 1):
        pl.seed_everything(2, verbose=False)
        got = fit(Chancy(), tmp_path / f"{epoch}", tmp_path / "whole" / f"epoch={epoch}.ckpt")
        assert got.seen == expected.seen[5 * (epoch + 1) :]
        assert torch.equal(weights(got), weights(expected))


@pytest.mark.parametrize("max_steps", [3, 5, 7])
def test_run_saved_by_hand_after_its_end(max_steps, tmp_path):
    def fit(module, max_steps, ckpt_path=None):
        data = RehearsalDataModule(ChancyFinetune(shuffle=True), pool(), ledger=ledger(), order_seed=1)
        run = trainer(
            RehearsalCallback(MixCD()), ExactResume(), max_steps=max_steps, max_epochs=-1, limit_val_batches=0
        )
        run.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return run

    expected, first, second = Chancy(), Chancy(), Chancy()
    pl.seed_everything(1, verbose=False)
    fit(expected, 2 * max_steps)
    pl.seed_everything(1, verbose=False)
    fit(first, max_steps).save_checkpoint(tmp_path / "half.ckpt")
    pl.seed_everything(2, verbose=False)
    fit(second, 2 * max_steps, tmp_path / "half.ckpt")
    assert first.seen + second.seen == expected.seen
    assert torch.equal(weights(second), weights(expected))


def test_checkpoint_holds_nothing_that_could_run(whole):
    _, folder = whole("mixcd")
    saved = torch.load(folder / "step=3.ckpt", weights_only=True)
    assert {"RehearsalCallback", "ExactResume"} <= set(saved["callbacks"])


CHILD = """
import time
from lightning.pytorch.loggers import CSVLogger
from tests.integration import test_resume

class Slow(test_resume.Chancy):
    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        return super().training_step(batch, batch_idx)

test_resume.Chancy = Slow
test_resume.train("mixcd", {folder!r}, logger=CSVLogger({folder!r}, flush_logs_every_n_steps=1))
"""


@pytest.mark.slow
def test_killed_run_goes_on_from_its_newest_checkpoint(whole, tmp_path):
    expected, _ = whole("mixcd")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD.format(folder=str(tmp_path))],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},  # checkpoints are moved into place, not copied
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while child.poll() is None and not (tmp_path / "step=4.ckpt").exists():
        time.sleep(0.01)
    time.sleep(random.Random().uniform(0, 0.3))  # anywhere within the next six steps
    child.kill()
    child.wait()
    step = max(int(path.stem.split("=")[1]) for path in tmp_path.glob("step=*.ckpt"))
    assert 4 <= step < 15
    got = train("mixcd", tmp_path, tmp_path / f"step={step}.ckpt", seed=99)
    assert_continues(got, expected, step)
    with (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # what the killed run logged, to the last digit
        for name, value in row.items():
            if value and name not in ("step", "epoch"):
                assert float(value) == pytest.approx(expected.logged[int(row["step"])][name], rel=1e-12)
    assert sum("compute_units" in name for name in rows[0]) == 1
