"""Schedules in a real `fit`: rows per step, what an adaptive one is told, resume."""

import math
from itertools import pairwise

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_mixcd import (
    ExactResume,
    Pool,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    UniformCorrect,
)
from lightning_mixcd.schedules import ExpandingIntervals, HoldRetention, ModelTime, Ramp
from tests.toys import Finetune, OnBatchEnd, Toy, finetune, ledger, pool, rehearsed, trainer, weights


def rows_per_batch(schedule, *, accumulate=1, **settings):
    module = Toy()
    callback = RehearsalCallback(
        Uniform(), pool=pool(), ledger=ledger(), schedule=schedule, mix_ratio=1, **settings
    )
    trainer(callback, max_epochs=4, accumulate_grad_batches=accumulate).fit(module, DataLoader(finetune(), 8))
    return [len(step) for step in rehearsed(module)]


@pytest.mark.parametrize("ramp", [Ramp(12), Ramp(10, start=1, end=0.1, shape="cosine")])
def test_rows_follow_the_share(ramp):
    entitled, expected = 0.0, []
    for step in range(20):
        expected.append(math.floor(entitled + 8 * ramp(step) + 1e-5) - math.floor(entitled + 1e-5))
        entitled += 8 * ramp(step)
    assert rows_per_batch(ramp) == expected


def test_days_count_optimizer_steps():
    # Two batches to a step; the last of five is a step of its own.
    steps = [step for epoch in range(4) for step in (3 * epoch + i for i in (0, 0, 1, 1, 2))]
    schedule = ExpandingIntervals(day=2, burst=1)
    assert rows_per_batch(schedule, accumulate=2) == [8 * (step in {2, 4, 8}) for step in steps]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_model_time_is_the_way_that_the_weights_go(accumulate):
    module, schedule = Toy(), ModelTime(3, burst=2, lag=1)
    callback = RehearsalCallback(Uniform(), pool=pool(), schedule=schedule, mix_ratio=1)
    path = [weights(module)]
    watch = OnBatchEnd(lambda t, m, o, b: path.append(weights(m)))
    trainer(callback, watch, max_epochs=4, accumulate_grad_batches=accumulate).fit(
        module, DataLoader(finetune(), 8)
    )
    lengths = [float((b - a).norm()) for a, b in pairwise(path)]
    # Of the last step the length is noted and not yet read.
    steps = [length for length in lengths if length > 0]
    assert schedule.state_dict()["time"] == pytest.approx(sum(steps[:-1]), rel=1e-4)
    assert schedule.state_dict()["pending"] == pytest.approx(steps[-1:], rel=1e-4)
    assert 0 < len([step for step in rehearsed(module) if step]) < len(lengths)


class Told(HoldRetention):
    """Remembers what it was told."""

    def setup(self, module):
        super().setup(module)
        self.told = []

    def learn(self, damaged_share):
        self.told.append(float(damaged_share))
        super().learn(damaged_share)


@pytest.mark.parametrize("strategy", [Uniform, UniformCorrect])
def test_controller_is_told_the_damage_among_base_correct_rows(strategy):
    schedule, module, expected = Told(0.9), Toy(), []
    right = ledger().correct

    def note(trainer, pl_module, outputs, batch):
        rows = rehearsed(pl_module)[-1]
        if not rows:
            expected.append(math.nan)
            return
        now = outputs["logits"][-len(rows) :].argmax(1) == batch[1][-len(rows) :]
        counted = [(bool(now[i]), j) for i, j in enumerate(rows) if right[j]]
        expected.append(sum(not ok for ok, _ in counted) / len(counted))

    callback = RehearsalCallback(
        strategy(), pool=Pool(pool(), lag=1), ledger=ledger(), schedule=schedule, mix_ratio=1
    )
    trainer(callback, OnBatchEnd(note), max_epochs=3).fit(module, DataLoader(finetune(), 8))
    assert schedule.told == pytest.approx(expected, nan_ok=True)
    assert len(expected) == 15
    assert len({schedule(0), *map(len, rehearsed(module))}) > 2  # it did something


def test_controller_needs_a_ledger():
    callback = RehearsalCallback(Uniform(), pool=pool(), schedule=HoldRetention())
    with pytest.raises(ValueError, match=r"`ledger` must be given, because HoldRetention"):
        trainer(callback).fit(Toy(), DataLoader(finetune(), 8))


SCHEDULES = {
    "ramp": lambda: Ramp(9),
    "model time": lambda: ModelTime(2, burst=2, lag=3),
    "retention": lambda: HoldRetention(0.9, gain=2),
}


# The resumed run keeps no checkpoints, which Lightning warns of.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("name", SCHEDULES)
def test_resumed_run_equals_the_uninterrupted_one(name, tmp_path):
    def run(*callbacks, ckpt_path=None, **settings):
        pl.seed_everything(1, verbose=False)
        module = Toy()
        data = RehearsalDataModule(
            Finetune(shuffle=True), Pool(pool(), lag=2), ledger=ledger(), mix_ratio=0.6, order_seed=3
        )
        rehearsal = RehearsalCallback(UniformCorrect(), schedule=SCHEDULES[name]())
        trainer(rehearsal, ExactResume(), *callbacks, max_epochs=3, **settings).fit(
            module, datamodule=data, ckpt_path=ckpt_path
        )
        return module

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(keep, enable_checkpointing=True)
    assert len(set(map(len, rehearsed(whole)))) > 1
    for cut in (1, 4, 7, 10, 12):
        resumed = run(ckpt_path=tmp_path / f"step={cut}.ckpt")
        assert rehearsed(whole)[cut:] == rehearsed(resumed)
        assert torch.equal(weights(whole), weights(resumed))
