"""Damage as a rise of the loss: everything that asks what is damaged gives the same answer."""

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixcd import (
    CaptureError,
    Ledger,
    MixCD,
    Oracle,
    Pool,
    Readout,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    UniformCorrect,
    record_ledger,
)
from lightning_mixcd.baseline import Baseline
from lightning_mixcd.estimators import RunningMean
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.resume import ExactResume
from lightning_mixcd.strategies import ScreenDamaged
from tests.test_separate import Apart
from tests.toys import (
    N_CLASSES,
    N_FEATURES,
    N_POOL,
    POOL_IDS,
    Finetune,
    Listed,
    OnBatchEnd,
    Toy,
    finetune,
    flat,
    ids,
    ledger,
    pool,
    rehearsed,
    trainer,
    weights,
)

TOLERANCE = 0.3


def fit(module=None, strategy=None, *others, **settings):
    module = module or Toy()
    given = {"pool": Pool(pool(), lag=1), "mix_ratio": 1.0, "ledger": ledger()}
    given |= {"readout": Readout(tolerance=TOLERANCE)}
    given |= {name: settings.pop(name) for name in given if name in settings}
    callback = RehearsalCallback(strategy or MixCD(), **given)
    settings = {"max_epochs": 3, **settings}
    trainer(callback, *others, **settings).fit(module, DataLoader(finetune(), 8))
    return module, callback


def damaged(net, index, tolerance=TOLERANCE):
    """Which pool samples have a loss so much above that of the ledger, one by one."""
    x, y = pool().tensors
    found = []
    for i in index:
        with torch.no_grad():
            loss = float(cross_entropy(net(x[i : i + 1, :N_FEATURES]), y[i : i + 1]))
        found.append(loss > float(ledger().loss[i]) + tolerance)
    return found


class Counting(Toy):
    """Counts damage by hand, with the weights of each step before it is made."""

    def __init__(self):
        super().__init__()
        self.met = []  # label and damage of each rehearsed row, step by step

    def training_step(self, batch, batch_idx):
        if self.training:
            index = [i - POOL_IDS for i in ids(batch[0]) if i >= POOL_IDS]
            labels = pool().tensors[1][index].tolist()
            self.met.append([*zip(labels, damaged(self.net, index), strict=True)])
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize("kind", [Counting, Apart])
def test_mixcd_learns_from_rows_whose_loss_has_risen(kind):
    logger = Listed()
    strategy = MixCD(partition=ByLabel(), estimator=RunningMean(), floor=0.5)
    module, _ = fit(kind(), strategy, logger=logger, log_every_n_steps=1)
    counted, expected = module, strategy.signal()
    if kind is Apart:
        counted, _ = fit(Counting(), other := MixCD(partition=ByLabel(), estimator=RunningMean(), floor=0.5))
        assert module.kept == rehearsed(counted)
        expected = other.signal()
    met = flat(counted.met)
    for label in range(N_CLASSES):
        outcomes = [wrong for at, wrong in met if at == label]
        reference = RunningMean()
        reference.reset(1)
        reference.update(torch.tensor([sum(outcomes)]), torch.tensor([len(outcomes)]), steps=1)
        torch.testing.assert_close(expected[label], reference.rates()[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(strategy.signal(), expected)
    shares = [sum(wrong for _, wrong in step) / len(step) for step in counted.met]
    assert logger.values("rehearsal/damaged_share") == pytest.approx(shares)
    assert 0 < sum(shares) < len(shares)


@pytest.mark.parametrize("strategy", [UniformCorrect, MixCD])
def test_what_the_base_model_had_wrong_is_drawn_too(strategy):
    wrong = set(range(0, N_POOL, 5))
    base = Ledger.from_arrays([i not in wrong for i in range(N_POOL)], ledger().loss)
    soft, _ = fit(strategy=strategy(), ledger=base, max_epochs=4)
    hard, _ = fit(strategy=strategy(), ledger=base, max_epochs=4, readout=Readout())
    assert wrong <= set(flat(rehearsed(soft)))
    assert not wrong & set(flat(rehearsed(hard)))


def test_oracle_finds_every_sample_whose_loss_has_risen():
    refreshed = []

    class Noting(Oracle):
        def refresh(self, probe):
            super().refresh(probe)
            refreshed.append((self.signal().tolist(), damaged(module.net, range(N_POOL))))

    module = Toy()
    _, callback = fit(module, Noting(every_n_steps=2), max_epochs=2)
    assert len(refreshed) == 5
    assert all(found == expected for found, expected in refreshed)
    assert 0 < sum(refreshed[-1][0]) < N_POOL
    assert callback.compute_units == 3 * 10 * 16 + 5 * N_POOL


def test_screening_puts_these_first():
    looked = []

    class Noting(ScreenDamaged):
        def screen(self, candidates, n):
            chosen = super().screen(candidates, n).tolist()
            index = candidates.ticket["index"].tolist()
            looked.append((damaged(module.net, index), chosen))
            return torch.tensor(chosen)

    module = Toy()
    fit(module, Noting(), mix_ratio=0.5)
    for found, chosen in looked:
        expected = sorted(range(len(found)), key=lambda i: not found[i])  # in order among equals
        assert chosen == expected[: len(chosen)]
    assert any(any(found) and not all(found) for found, _ in looked)


@pytest.mark.parametrize(("tolerance", "share"), [(1e6, 0.0), (0.0, None)])
def test_tolerance_decides(tolerance, share):
    logger = Listed()
    fit(readout=Readout(tolerance=tolerance), logger=logger, log_every_n_steps=1)
    shares = logger.values("rehearsal/damaged_share")
    assert sum(shares) == 0 if share == 0 else sum(shares) > 0


class Losses(Toy):
    """Knows losses alone, as a language model may."""

    def outputs(self, loss, logits):
        losses = cross_entropy(logits, self.given[1], reduction="none")
        return {"loss": losses.mean(), "losses": losses}

    def training_step(self, batch, batch_idx):
        self.given = batch
        return super().training_step(batch, batch_idx)


def test_losses_are_enough(tmp_path):
    readout = Readout(tolerance=TOLERANCE)
    found = record_ledger(Losses(), pool(), tmp_path / "base", readout=readout)
    assert found.correct.all()
    assert found.loss.tolist() == pytest.approx(ledger().loss.tolist(), abs=1e-5)
    one, two = UniformCorrect(), UniformCorrect()
    logs = Listed(), Listed()
    losses, _ = fit(Losses(), one, ledger=found, logger=logs[0], log_every_n_steps=1)
    logits, _ = fit(Toy(), two, logger=logs[1], log_every_n_steps=1)
    assert rehearsed(losses) == rehearsed(logits)
    name = "rehearsal/damaged_share"
    assert logs[0].values(name) == logs[1].values(name)


def test_logits_are_read_before_losses_where_they_are_classes():
    logits, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    outputs = {"logits": logits, "losses": torch.zeros(4)}
    reading = Readout(tolerance=1.0).read(outputs, {"y": y}, with_loss=True)
    assert reading.correct.tolist() == (logits.argmax(1) == y).tolist()
    reading = Readout(tolerance=1.0).read(outputs | {"logits": torch.randn(4, 2, 3)}, {"y": y})
    assert reading.correct.all()
    assert reading.loss.tolist() == [0.0] * 4


def run(*callbacks, ckpt_path=None, seed=1, **settings):
    pl.seed_everything(seed, verbose=False)
    module = Toy(dropout=0.2)
    callback = RehearsalCallback(MixCD(), readout=Readout(tolerance=TOLERANCE))
    data = RehearsalDataModule(Finetune(), Pool(pool(), lag=8), mix_ratio=0.5, ledger=ledger(), order_seed=3)
    fitting = trainer(callback, ExactResume(), *callbacks, max_epochs=2, **settings)
    fitting.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, callback


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("step", [3, 6])  # between two lessons
def test_resumed_run_is_the_same(step, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole, callback = run(keep, enable_checkpointing=True)
    resumed, then = run(ckpt_path=tmp_path / f"step={step}.ckpt", seed=99)
    assert torch.equal(weights(whole), weights(resumed))
    assert torch.equal(callback.strategy.signal(), then.strategy.signal())


def test_without_a_tolerance_nothing_is_added():
    baseline = Baseline(ledger(), None)
    assert baseline.ledger is not None
    assert [*baseline.columns()] == ["base_correct"]
    ticket = {"index": torch.arange(2)}
    assert baseline.known(ticket) is ticket
    assert Baseline(None, None).columns() == {}


# What is refused.


def test_tolerance_needs_a_ledger():
    with pytest.raises(ValueError, match=r"`ledger` must be given, because Readout\(tolerance=0.3\)"):
        fit(strategy=Uniform(), ledger=None)


@pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
def test_tolerance_is_a_finite_number(tolerance):
    with pytest.raises(ValueError, match=r"`tolerance` must be in \[0, inf\)"):
        Readout(tolerance=tolerance)


def test_losses_are_required_at_the_first_step():
    class Flagged(Toy):
        def outputs(self, loss, logits):
            return {"loss": loss, "correct": logits.argmax(1) >= 0}

    stepped = []
    with pytest.raises(CaptureError, match=r"compares the loss of each row with the base model's"):
        fit(Flagged(), MixCD(), OnBatchEnd(lambda *_: stepped.append(1)), pool=Pool(pool(), lag=8))
    assert not stepped
