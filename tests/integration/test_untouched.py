"""What a run with rehearsal leaves as it is: number of forwards, the user's batches, chance, validation."""

import copy
import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_mixcd import (
    ClassBalanced,
    MixCD,
    NoRehearsal,
    Pool,
    Readout,
    RehearsalCallback,
    Uniform,
    UniformCorrect,
)
from lightning_mixcd.partitions import ByLabel
from tests.toys import N_POOL, Toy, finetune, finetuned, ids, ledger, pool, rehearsed, task, trainer, weights

STRATEGIES = [NoRehearsal, Uniform, UniformCorrect, ClassBalanced, MixCD, lambda: MixCD(partition=ByLabel())]


class Counting(Toy):
    """Counts calls of the network, and rows, in every stage."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.calls = []

    def _count(self, module, inputs, output):
        self.calls.append((self.trainer.state.stage.value, module.training, len(output)))


@pytest.mark.parametrize("accumulate_grad_batches", [1, 3])
def test_no_forward_more_than_plain_lightning_on_batches_as_large(accumulate_grad_batches):
    settings = {"max_epochs": 2, "accumulate_grad_batches": accumulate_grad_batches}
    ours, plain = Counting(), Counting()
    callback = RehearsalCallback(MixCD(), pool=pool(), ledger=ledger(), mix_ratio=0.5)
    trainer(callback, **settings).fit(ours, DataLoader(finetune(), 8), DataLoader(pool(), 30))
    trainer(**settings).fit(plain, DataLoader(task(60, seed=5), 12), DataLoader(pool(), 30))
    assert ours.calls == plain.calls
    assert sum(rows for stage, _, rows in ours.calls if stage == "train") == 2 * (40 + 20)


def test_ledger_pass_is_the_only_one_more(tmp_path):
    runs = []
    for path in (tmp_path / "l", tmp_path / "l"):
        module = Counting()
        callback = RehearsalCallback(MixCD(), pool=pool(), ledger=path, mix_ratio=0.5)
        trainer(callback).fit(module, DataLoader(finetune(), 8))
        runs.append(module.calls)
    assert runs[0] == [("train", False, N_POOL), *runs[1]]
    assert runs[1] == [("train", True, 12)] * 5


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002


class Watching(Counting):
    """Draws from every global source in training and validation, and notes where they stand."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.states, self.validated = [], []

    def on_train_batch_start(self, batch, batch_idx):
        random.random(), np.random.rand()  # noqa: NPY002
        self.states.append(states())

    def validation_step(self, batch, batch_idx):
        self.validated.append((ids(batch[0]), self.training, torch.is_grad_enabled(), states()))
        torch.rand(()), random.random(), np.random.rand()  # noqa: NPY002


class Appending(Watching):
    """What the user would have to write without us: rows of another data set beside every batch."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if not self.trainer.training:
            return batch
        return [torch.cat([part, more[:4]]) for part, more in zip(batch, pool().tensors, strict=True)]


class Drawing(Dataset):
    """A pool with random augmentation, as greedy for chance as can be."""

    def __len__(self):
        return N_POOL

    def __getitem__(self, index):
        x, y = pool()[index]
        noise = 0.01 * float(torch.rand(()) + random.random() + np.random.rand())  # noqa: NPY002
        return torch.cat([x[:-1] + noise, x[-1:]]), y


def same(left, right):
    return len(left) == len(right) and all(
        a[:2] == b[:2] and torch.equal(a[2], b[2]) for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize(("strategy", "num_workers"), [*((kind, 0) for kind in STRATEGIES), (MixCD, 2)])
def test_chance_takes_the_course_that_it_takes_without_rehearsal(strategy, num_workers):
    modules = []
    rehearses = strategy is not NoRehearsal
    for ours in (False, True):
        pl.seed_everything(8, verbose=False)
        module = (Watching if ours or not rehearses else Appending)(dropout=0.4)
        callbacks = []
        if ours:
            noisy = Pool(Drawing(), num_workers=num_workers)
            callbacks = [RehearsalCallback(strategy(), pool=noisy, ledger=ledger(), mix_ratio=0.5)]
        trainer(*callbacks, max_epochs=3).fit(
            module, DataLoader(finetune(), 8, shuffle=True), DataLoader(finetune(), 20, shuffle=True)
        )
        modules.append(module)
    without, with_ours = modules
    assert finetuned(with_ours) == finetuned(without)
    assert same(with_ours.states, without.states)
    assert [v[:3] for v in with_ours.validated] == [v[:3] for v in without.validated]
    assert same([v[3] for v in with_ours.validated], [v[3] for v in without.validated])
    if not rehearses:
        assert torch.equal(weights(with_ours), weights(without))
    else:
        assert [len(step) for step in rehearsed(with_ours)] == [4] * 15


class DropoutOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.masks = []

    def forward(self, x):
        kept = nn.functional.dropout(torch.ones_like(x), 0.5, training=self.training)
        if self.training:
            self.masks.append(kept)
        return x * kept


def test_dropout_masks_are_those_of_batches_as_large():
    masks = []
    for kind, callbacks in (
        (Appending, []),
        (Watching, [RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5)]),
    ):
        pl.seed_everything(8, verbose=False)
        module = kind()
        module.net[1] = DropoutOnly()
        trainer(*callbacks).fit(module, DataLoader(finetune(), 8, shuffle=True))
        masks.append(torch.cat(module.net[1].masks))
    assert torch.equal(*masks)


def test_other_stages_see_the_users_batches_only():
    module = Watching()
    callback = RehearsalCallback(MixCD(), pool=pool(), ledger=ledger())
    run = trainer(callback, max_epochs=2, val_check_interval=2, num_sanity_val_steps=1)
    run.fit(module, DataLoader(finetune(), 8), DataLoader(finetune(), 20))
    run.validate(module, DataLoader(finetune(), 20), verbose=False)
    batches = [rows for rows, *_ in module.validated]
    # One of the sanity check; two epochs with validation after batches 2 and 4; then once more.
    assert batches == [[*range(20)]] + [[*range(20)], [*range(20, 40)]] * 5
    assert not any(training or grad for _, training, grad, _ in module.validated)
    assert module.training


def test_users_batch_is_not_changed_in_place():
    # A loader that hands out the same objects again and again.
    batches = [[part[start : start + 8].clone() for part in finetune().tensors] for start in range(0, 40, 8)]
    before = [[part.clone() for part in batch] for batch in batches]

    class Fixed(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return batches[index]

    loader = DataLoader(Fixed(), batch_size=None)
    trainer(RehearsalCallback(MixCD(), pool=pool(), ledger=ledger()), max_epochs=2).fit(Toy(), loader)
    assert all(
        torch.equal(part, old)
        for batch, olds in zip(batches, before, strict=True)
        for part, old in zip(batch, olds, strict=True)
    )


def test_gradients_are_those_of_the_joined_batch():
    # One step by hand: the loss of the 12 rows, in one backward.
    module = Toy(lr=0.5)
    module.configure_optimizers = lambda: torch.optim.SGD(module.parameters(), 0.5)
    trainer(RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5), max_steps=1).fit(
        module, DataLoader(finetune(), 8)
    )
    by_hand = Toy()
    rows = [finetune()[i] for i in range(8)] + [pool()[i] for i in rehearsed(module)[0]]
    x, y = torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows])
    nn.functional.cross_entropy(by_hand.net(x[:, :-1]), y).backward()
    expected = torch.cat([(p - 0.5 * p.grad).detach().flatten() for p in by_hand.parameters()])
    assert torch.allclose(weights(module).float(), expected, atol=1e-7)


def test_pool_of_one_sample_per_class_is_enough_for_small_draws():
    three = TensorDataset(*pool()[[0, 1, 2]])
    module = Toy()
    trainer(RehearsalCallback(Uniform(), pool=three, mix_ratio=0.375)).fit(module, DataLoader(finetune(), 8))
    assert [sorted(step) for step in rehearsed(module)] == [sorted(int(x[-1]) - 1000 for x, _ in three)] * 5


# As for a moving average of the weights. In the middle of a batch end, the readout still holds what it heard.
@pytest.mark.parametrize("readout", [Readout(), Readout(module="net"), Readout(features="net.3")])
def test_module_can_be_copied_at_any_time(readout):
    class Copying(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.copy = copy.deepcopy(pl_module)

    module, copying = Toy(), Copying()
    callback = RehearsalCallback(Uniform(), pool=Pool(pool(), num_workers=1), readout=readout)
    trainer(copying, callback).fit(module, DataLoader(finetune(), 8))
    assert torch.equal(weights(copying.copy), weights(module))
    assert copying.copy.training_step.__self__ is copying.copy
