"""Rehearsal from streams in a real Trainer."""

from itertools import pairwise

import datasets
import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_mixcd import (
    ExactResume,
    GradientMatching,
    MixCD,
    NoRehearsal,
    Oracle,
    Pool,
    RehearsalCallback,
    RehearsalDataModule,
    ScreenDamaged,
    ScreenHighestLoss,
    Streams,
    Uniform,
    record_ledger,
)
from lightning_mixcd.estimators import RunningMean
from lightning_mixcd.penalties import EWC, KFAC, MAS
from tests.toys import Finetune, Listed, Toy, ledger, pool, rehearsed, trainer, weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning"),
]

LABELS = pool().tensors[1]
RIGHT = torch.tensor(ledger().correct)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The toy pool in Parquet files, two for each label."""
    folder = tmp_path_factory.mktemp("shards")
    datasets.disable_progress_bars()
    x, y = pool().tensors
    for label in LABELS.unique().tolist():
        rows = y == label
        columns = {"x": x[rows].tolist(), "y": y[rows].tolist(), "right": RIGHT[rows].tolist()}
        for i in range(2):
            part = datasets.Dataset.from_dict(columns).shard(2, i, contiguous=True)
            part.to_parquet(folder / f"{label}-{i}.parquet")
    return folder


def collate(rows):
    return [torch.tensor([row[key] for row in rows]) for key in ("x", "y")]


def streamed(folder, **settings):
    streams = {
        f"label {label}": datasets.IterableDataset.from_parquet([
            f"{folder}/{label}-{i}.parquet" for i in (0, 1)
        ])
        for label in LABELS.unique().tolist()
    }
    return Pool(Streams(streams, base_correct="right"), collate_fn=collate, **settings)


def train(shards, folder, ckpt_path=None, *, strategy=MixCD, num_workers=0):
    pl.seed_everything(7, verbose=False)
    module, logger = Toy(), Listed()
    data = RehearsalDataModule(
        Finetune(shuffle=True), streamed(shards, num_workers=num_workers), mix_ratio=0.6, order_seed=11
    )
    callback = RehearsalCallback(strategy(), seed=3)
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer(
        *(callback, ExactResume(), keep),
        max_epochs=8,
        logger=logger,
        log_every_n_steps=4,
        enable_checkpointing=True,
    ).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, logger, callback


@pytest.fixture(scope="module")
def whole(shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return *train(shards, folder), folder


def test_rows_come_in_the_order_of_their_stream(whole):
    rows = [i for step in rehearsed(whole[0]) for i in step]
    assert RIGHT[rows].all()
    for label in LABELS.unique().tolist():
        size = int((RIGHT & LABELS.eq(label)).sum())
        got = [i for i in rows if LABELS[i] == label]
        assert len(got) > size  # more than a pass
        # Hugging Face takes the two shards in either order; inside each, samples stay in theirs.
        assert len({*got[:size]}) == size
        assert sum(a > b for a, b in pairwise(got[:size])) <= 1


@pytest.mark.parametrize("step", [1, 9, 26])
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_run_is_the_uninterrupted_one(step, num_workers, whole, shards, tmp_path):
    expected, log, _, folder = whole
    got, got_log, _ = train(shards, tmp_path, folder / f"step={step}.ckpt", num_workers=num_workers)
    assert got.seen == expected.seen[step:]
    assert torch.equal(weights(got), weights(expected))
    assert got_log.rows == [row for row in log.rows if row[0] >= step]
    assert {"rehearsal/damaged_share", "rehearsal/rate/02"} <= {name for _, row in log.rows for name in row}


def test_rates_are_those_of_the_rows_that_were_rehearsed(shards, tmp_path):
    module = Toy(lr=0.0)
    callback = RehearsalCallback(MixCD(estimator=RunningMean()), pool=streamed(shards, lag=1))
    trainer(callback, max_epochs=3).fit(module, Finetune().train_dataloader())
    # Nothing is learnt, so what the base model had right stays right.
    assert callback.strategy.signal().tolist() == [0.0] * 3


def test_where_the_base_model_is_not_known_what_is_wrong_is_damaged(shards):
    module, log = Toy(lr=0.0), Listed()
    streams = streamed(shards).dataset.streams
    unknown = Pool(Streams(streams), collate_fn=collate, lag=1)
    callback = RehearsalCallback(Uniform(), pool=unknown, mix_ratio=1.0)
    trainer(callback, max_epochs=3, logger=log, log_every_n_steps=1).fit(
        module, Finetune().train_dataloader()
    )
    rows = [i for step in rehearsed(module) for i in step]
    shares = log.values("rehearsal/damaged_share")
    assert sum(shares) / len(shares) == pytest.approx(1 - RIGHT[rows].float().mean().item())


@pytest.mark.parametrize("strategy", [ScreenHighestLoss(), ScreenDamaged(), GradientMatching()])
def test_a_screen_chooses_among_what_its_source_reads(strategy, shards):
    module = Toy()
    callback = RehearsalCallback(strategy, pool=streamed(shards), mix_ratio=0.5)
    trainer(callback).fit(module, Finetune().train_dataloader())
    steps = rehearsed(module)
    rows, candidates = sum(map(len, steps)), int(callback.strategy.draw_state().sum())
    assert rows
    assert candidates >= rows * strategy.candidates_per_row
    assert all(RIGHT[step].all() for step in steps)


def test_what_needs_random_access_is_refused(shards, tmp_path):
    data = Finetune().train_dataloader()
    with pytest.raises(ValueError, match=r"`ledger` must be left out for `Streams`"):
        trainer(RehearsalCallback(MixCD(), pool=streamed(shards), ledger=tmp_path / "x")).fit(Toy(), data)
    with pytest.raises(TypeError, match=r"`Streams` have no random access"):
        record_ledger(Toy(), streamed(shards), tmp_path / "x")
    with pytest.raises((TypeError, ValueError), match=r"`Streams`"):
        trainer(RehearsalCallback(Oracle(), pool=streamed(shards))).fit(Toy(), data)


@pytest.mark.parametrize("penalty", [EWC(), MAS(), KFAC()])
def test_penalties_that_look_samples_up_are_refused(penalty, shards):
    callback = RehearsalCallback(MixCD(), pool=streamed(shards), penalties=[penalty])
    name = type(penalty).__name__
    with pytest.raises(ValueError, match=rf"`penalties` must do .* without random access .*, got {name}\."):
        trainer(callback).fit(Toy(), Finetune().train_dataloader())


def test_plain_finetuning_reads_nothing():
    class Unread:
        def __iter__(self):
            raise AssertionError

    trainer(RehearsalCallback(NoRehearsal(), pool=Pool(Streams({"a": Unread()})))).fit(
        Toy(), Finetune().train_dataloader()
    )
