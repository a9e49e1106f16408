"""Real runs on arbitrary settings and on broken input: laws hold, and errors say what is wrong."""

import copy
import math
import shutil
import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_mixcd import LedgerError, MixCD, Pool, PoolError, RehearsalCallback, Uniform, UniformCorrect
from tests.functional.test_joining import assert_same
from tests.integration.test_batches import COLLATES, AnyBatch
from tests.toys import (
    N_CLASSES,
    N_FINETUNE,
    N_POOL,
    POOL_IDS,
    Listed,
    Toy,
    finetune,
    flat,
    ledger,
    pool,
    rehearsed,
    task,
    trainer,
)


class Kept:
    """A collate function that remembers its batches, and what they were like."""

    def __init__(self, collate):
        self.collate, self.batches = collate, []

    def __call__(self, samples):
        batch = self.collate(samples)
        self.batches.append((batch, copy.deepcopy(batch)))
        return batch


@settings(deadline=None, max_examples=40)
@given(
    structure=st.sampled_from(list(COLLATES)),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    batch_size=st.integers(1, 9),
    mix_ratio=st.sampled_from([0.05, 0.1, 0.25, 1 / 3, 0.5, 0.7, 1, 1.5, 3]),
    accumulate=st.integers(1, 3),
    lag=st.integers(0, 6),
)
def test_laws_of_mixing(structure, sizes, batch_size, mix_ratio, accumulate, lag):
    n_finetune, n_pool = sizes
    kept, module = Kept(COLLATES[structure]), AnyBatch()
    pretrain = task(n_pool, seed=1, first_id=POOL_IDS)
    callback = RehearsalCallback(
        Uniform(), pool=Pool(pretrain, collate_fn=COLLATES[structure], lag=lag), mix_ratio=mix_ratio
    )
    run = trainer(callback, max_epochs=2, accumulate_grad_batches=accumulate)
    loader = DataLoader(task(n_finetune, seed=2), batch_size, collate_fn=kept)
    per_draw = math.ceil(Fraction(str(mix_ratio)) * min(batch_size, n_finetune))
    if per_draw > n_pool:
        with pytest.raises(ValueError, match=rf"`n` must be between 1 and .* got {per_draw}"):
            run.fit(module, loader)
        return
    run.fit(module, loader)

    batches = [
        range(first, min(first + batch_size, n_finetune)) for first in range(0, n_finetune, batch_size)
    ]
    n_rows = n_rehearsed = 0
    for batch, step in zip(batches * 2, module.seen, strict=True):
        assert step[: len(batch)] == [*batch]
        n_rows += len(batch)
        n_rehearsed += len(step) - len(batch)
        assert n_rehearsed == math.floor(Fraction(str(mix_ratio)) * n_rows)
    rows = flat(rehearsed(module))
    assert len(rows) == n_rehearsed
    assert {*rows} <= {*range(n_pool)}
    for start in range(0, len(rows), per_draw):
        draw = rows[start : start + per_draw]
        assert len({*draw}) == len(draw)
    assert len({*rows[:n_pool]}) == min(len(rows), n_pool)
    for batch, before in kept.batches:
        assert_same(batch, before)


# Broken input.


class Broken(Toy):
    """From some step on, the network puts out one kind of nonsense, as after a loss that overflowed."""

    def __init__(self, nonsense, *, first):
        super().__init__()
        self.nonsense, self.first = nonsense, first
        self.net.register_forward_hook(self._spoil)

    def _spoil(self, module, inputs, output):
        return output + self.nonsense if self.global_step >= self.first else output


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf")])
def test_network_that_broke_has_everything_wrong(nonsense):
    logger, module, strategy = Listed(), Broken(nonsense, first=10), MixCD()
    callback = RehearsalCallback(strategy, pool=Pool(pool(), lag=0), ledger=ledger(), mix_ratio=1)
    trainer(callback, max_epochs=6, logger=logger, log_every_n_steps=1).fit(module, DataLoader(finetune(), 8))
    share = logger.values("rehearsal/damaged_share")
    assert max(share[:10]) < 1
    assert share[11:] == [1.0] * len(share[11:])
    assert strategy.signal().isfinite().all()
    assert all(len({*step}) == 8 for step in rehearsed(module))


@pytest.mark.parametrize("label", [-100, N_CLASSES])
def test_pool_labels_that_are_no_class_are_wrong_in_training(label):
    class OwnLoss(Toy):
        def training_step(self, batch, batch_idx):
            logits = self.net(batch[0][:, :-1])
            return {"loss": cross_entropy(logits, batch[1], ignore_index=label), "logits": logits}

    x, y = pool().tensors
    logger = Listed()
    callback = RehearsalCallback(
        UniformCorrect(),
        pool=Pool(TensorDataset(x, torch.full_like(y, label)), lag=0),
        ledger=ledger(),
        mix_ratio=1,
    )
    trainer(callback, logger=logger, log_every_n_steps=1).fit(OwnLoss(), DataLoader(finetune(), 8))
    assert {*logger.values("rehearsal/damaged_share")} == {1.0}


class Files(Dataset):
    """The pool, a file per sample."""

    def __init__(self, folder):
        self.folder = folder
        if not folder.exists():
            folder.mkdir()
            for i, sample in enumerate(pool()):
                torch.save(sample, folder / f"{i}.pt")

    def __len__(self):
        return N_POOL

    def __getitem__(self, i):
        return torch.load(self.folder / f"{i}.pt", weights_only=True)


def resume(folder, *, unreadable="raise"):
    """Finetune for an epoch; or go on where that stopped, for another."""
    data = Pool(Files(folder / "pool"), unreadable=unreadable, random=False)
    callback, module = RehearsalCallback(UniformCorrect(), pool=data, ledger=folder / "l", mix_ratio=1), Toy()
    checkpoint = folder / "end.ckpt" if (folder / "end.ckpt").exists() else None
    run = trainer(callback, max_epochs=2 if checkpoint else 1)
    run.fit(module, DataLoader(finetune(), 8), ckpt_path=checkpoint)
    run.save_checkpoint(folder / "end.ckpt")
    return module


def test_lost_ledger_is_named_at_resume(tmp_path):
    resume(tmp_path)
    (tmp_path / "l" / "loss.npy").rename(tmp_path / "loss.npy")
    with pytest.raises(LedgerError, match=r"loss\.npy` is damaged: the file is missing\. Restore"):
        resume(tmp_path)
    shutil.rmtree(tmp_path / "l")
    with pytest.raises(
        LedgerError, match=r"must be recorded already, because a resumed run .* there is none at"
    ):
        resume(tmp_path)
    assert not (tmp_path / "l").exists()


# The first is compared with the ledger's fingerprint; the rest matters once it is drawn.
@pytest.mark.parametrize("lost", [[0], range(1, N_POOL, 2)])
def test_lost_pool_files_are_named_at_resume_or_skipped(lost, tmp_path):
    resume(tmp_path)
    for i in lost:
        (tmp_path / "pool" / f"{i}.pt").unlink()
    with pytest.raises(PoolError, match=r"Files raised FileNotFoundError.* for pool index \d+\. Mend"):
        resume(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Pool index")
        served = flat(rehearsed(resume(tmp_path, unreadable="skip")))
    assert len(served) == N_FINETUNE
    assert not {*served} & {*lost}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_is_learnt_of_a_substitute_is_its_own(num_workers, tmp_path):
    files = Files(tmp_path / "pool")
    for i in range(0, N_POOL, 3):
        (tmp_path / "pool" / f"{i}.pt").unlink()
    strategy = MixCD()
    data = Pool(files, unreadable="skip", num_workers=num_workers, lag=2)
    seen = []

    class Noted(Toy):
        def training_step(self, batch, batch_idx):
            given = super().training_step(batch, batch_idx)
            seen.append((given["logits"].argmax(1) == batch[1])[8:].tolist())
            return given

    module = Noted()
    logger = Listed()
    callback = RehearsalCallback(strategy, pool=data, ledger=ledger(), mix_ratio=1)
    with pytest.warns(UserWarning, match="cannot be read"):
        trainer(callback, logger=logger, log_every_n_steps=1).fit(module, DataLoader(finetune(), 8))
    base = ledger().correct
    expected = [
        sum(bool(base[i]) and not right for i, right in zip(step, rights, strict=True)) / len(step)
        for step, rights in zip(rehearsed(module), seen, strict=True)
    ]
    assert logger.values("rehearsal/damaged_share") == pytest.approx(expected)
