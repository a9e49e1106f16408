"""k steps, checkpoint, k steps equals 2k steps: draws, rates, weights, logged values, compute units."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch.utils.data import DataLoader

from lightning_mixcd import MixCD, NoRehearsal, Pool, RehearsalCallback, RehearsalDataModule
from lightning_mixcd.penalties import DER, EWC, L2SP, Distillation
from lightning_mixcd.resume import ExactResume
from lightning_mixcd.schedules import HoldRetention, ModelTime
from tests.penalties.replay import full_ledger
from tests.soak import chancy
from tests.soak.chancy import STRATEGIES, Chancy, ChancyFinetune, Noisy
from tests.toys import Listed, OnBatchEnd, Toy, finetune, ledger, pool, trainer, weights

pytestmark = [
    # Resumed runs write beside the uninterrupted one or into a folder of their own; both are meant.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
    # Lightning says so of every module with transfer hooks that is fitted with a datamodule.
    pytest.mark.filterwarnings(
        "ignore:You have overridden `on_.*_batch_transfer` in `LightningModule`:UserWarning"
    ),
]


# What a strategy is combined with.
BESIDE: dict[str, Callable[[], dict[str, Any]]] = {
    "nothing": dict,
    "hold_retention": lambda: {"schedule": HoldRetention(0.9, gain=2)},
    "model_time": lambda: {"schedule": ModelTime(1, burst=2, lag=2)},
    "ewc_l2sp": lambda: {"penalties": [EWC(10.0, n_samples=20), L2SP(0.1)]},
    "distillation_der": lambda: {"penalties": [Distillation(), DER(beta=0.5)]},
}


@dataclass
class Run:
    """What a run was, step by step."""

    seen: list[list[int]]
    logged: dict[int, dict[str, float]]
    weights: torch.Tensor
    units: int
    rates: dict[int, Any] = field(default_factory=dict)


class Failing(pl.Callback):
    """Fails in a hook of a batch, counted from 0; of the callback, or behind that of the module."""

    def __init__(self, hook: str, batch: int) -> None:
        def fail(run: pl.Trainer, *_: Any) -> None:
            if run.fit_loop.epoch_loop.total_batch_idx == batch:
                raise RuntimeError("enough")

        self.batch = batch
        setattr(self, hook, fail)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not hasattr(self, "on_after_batch_transfer"):
            return
        whole = pl_module.on_after_batch_transfer

        def hook(batch: Any, dataloader_idx: int) -> Any:
            # Lightning counts a batch when it is on the device.
            if trainer.training and trainer.fit_loop.epoch_loop.total_batch_idx == self.batch - 1:
                raise RuntimeError("enough")
            return whole(batch, dataloader_idx)

        pl_module.on_after_batch_transfer = hook


def train(
    strategy: str,
    folder: Path | str,
    ckpt_path: Any = None,
    *,
    beside: str = "nothing",
    seed: int = 7,
    pool_workers: int = 0,
    finetune_workers: int = 0,
    fails: tuple[str, int] | None = None,
    **settings: Any,
) -> Run:
    pl.seed_everything(seed, verbose=False)
    module, rates, logger = Chancy(), {}, Listed()
    callback = RehearsalCallback(STRATEGIES[strategy](), seed=3, **BESIDE[beside]())
    data = RehearsalDataModule(
        ChancyFinetune(batch_size=8, shuffle=True, num_workers=finetune_workers),
        Pool(Noisy(pool()), num_workers=pool_workers),
        ledger=full_ledger(),
        mix_ratio=0.4,
        order_seed=11,
    )
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    others = [] if fails is None else [Failing(*fails), OnExceptionCheckpoint(folder)]

    def note(run: pl.Trainer, *_: Any) -> None:
        signal = callback.strategy.signal()
        rates[run.fit_loop.epoch_loop.total_batch_idx] = None if signal is None else signal.tolist()

    trainer(
        callback,
        OnBatchEnd(note),
        ExactResume(),
        keep,
        *others,
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


@pytest.mark.parametrize("step", [3, 7])
@pytest.mark.parametrize("beside", [name for name in BESIDE if name != "nothing"])
def test_with_penalties_and_schedules(beside, step, check):
    check("mixcd", step, beside=beside)


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


# Of two rounds of draws and their ends, and of the first batch of an epoch.
# What Lightning says of a run with this callback that was not resumed by it.
@pytest.mark.filterwarnings("ignore:.*was called without a model:UserWarning")
@pytest.mark.filterwarnings("ignore:.*but there is no last checkpoint available:UserWarning")
@pytest.mark.parametrize("step", range(1, 11))
@pytest.mark.parametrize("hook", ["on_after_batch_transfer", "on_train_batch_start", "on_before_backward"])
@pytest.mark.parametrize("strategy", ["mixcd", "gradient_matching"])
def test_batch_that_failed_is_made_again(strategy, hook, step, tmp_path, monkeypatch):
    # The state of the other generators before each batch would cost too much.
    monkeypatch.setattr(chancy, "draw", lambda: float(torch.rand(())))
    expected = train(strategy, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="enough"):
        train(strategy, tmp_path, fails=(hook, step))
    got = train(strategy, tmp_path / "again", tmp_path / "on_exception.ckpt", seed=99)
    # Lightning counts the batch twice, so that what is logged has other steps.
    assert got.seen == expected.seen[step:]
    assert [*got.rates.values()] == [*expected.rates.values()][step:]
    assert torch.equal(got.weights, expected.weights)
    assert got.units == expected.units


@pytest.mark.filterwarnings("ignore:.*was called without a model:UserWarning")
@pytest.mark.filterwarnings("ignore:.*but there is no last checkpoint available:UserWarning")
def test_batch_that_failed_without_rehearsal_is_saved_too(tmp_path):
    def fit(*others, ckpt_path=None):
        callbacks = [RehearsalCallback(NoRehearsal(), pool=pool()), *others]
        run = trainer(*callbacks, max_epochs=2, enable_checkpointing=bool(others))
        run.fit(Toy(), DataLoader(finetune(), 8), ckpt_path=ckpt_path)
        return run

    with pytest.raises(RuntimeError, match="enough"):
        fit(Failing("on_before_backward", 3), OnExceptionCheckpoint(tmp_path))
    assert fit(ckpt_path=tmp_path / "on_exception.ckpt").global_step == 10


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


@pytest.mark.parametrize(("first", "second"), [(2, 4), (5, 7), (10, 11)])
def test_run_resumed_twice(first, second, whole, tmp_path):
    """Lightning miscounts the epoch that follows a resume at the end of one."""
    expected, folder = whole("mixcd")
    train("mixcd", tmp_path / "first", folder / f"step={first}.ckpt")
    got = train("mixcd", tmp_path / "second", tmp_path / "first" / f"step={second}.ckpt", seed=99)
    assert_continues(got, expected, second)


def test_resumed_run_does_not_save_amid_an_accumulation(whole, tmp_path):
    settings = {"accumulate_grad_batches": 3, "log_every_n_steps": 1}
    _, folder = whole("mixcd", **settings)
    train("mixcd", tmp_path, folder / "step=2.ckpt", **settings)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == [
        f"step={step}.ckpt" for step in range(3, 7)
    ]
