"""A ledger that rides along with training: it is what the last epoch saw."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from lightning_mixcd import (
    CaptureError,
    HeadProbe,
    Ledger,
    LedgerError,
    MixCD,
    Readout,
    RehearsalCallback,
    record_ledger,
)
from lightning_mixcd.ledger_callback import IndexedDataset, LedgerCallback
from tests.toys import N_POOL, LossOnly, OnBatchEnd, Opening, Toy, finetune, flat, pool, trainer


def pretrain(path, module=None, *others, max_epochs=3, data=None, settings=None, **loader):
    data = data or IndexedDataset(pool())
    callback = LedgerCallback(path, data, **(settings or {}))
    module = module or Toy(base=False)
    loader = data.loader(**{"batch_size": 8, "shuffle": True, **loader})
    trainer(callback, *others, max_epochs=max_epochs).fit(module, loader)
    return callback, module


def test_ledger_holds_what_the_last_epoch_saw(tmp_path):
    seen = {}

    def keep(run, _module, outputs, batch):
        (x, y), logits = batch, outputs["logits"].detach()
        for row, i in enumerate((x[:, -1] - 1000).int().tolist()):
            loss = -torch.log_softmax(logits[row], 0)[y[row]]
            seen[i] = (bool(logits[row].argmax() == y[row]), float(loss), int(y[row]))

    callback, module = pretrain(tmp_path / "l", Toy(base=False, dropout=0.5), OnBatchEnd(keep))
    ledger = Ledger.open(tmp_path / "l")
    expected = [seen[i] for i in range(N_POOL)]
    assert ledger.correct.tolist() == [right for right, _, _ in expected]
    assert ledger.loss.tolist() == pytest.approx([loss for _, loss, _ in expected], rel=1e-5)
    assert ledger.column("label").tolist() == [label for _, _, label in expected]
    assert callback.ledger.correct.tolist() == ledger.correct.tolist()
    assert ledger.forwards == 0
    assert module.rows_forwarded == 3 * N_POOL
    ledger.verify_pool(pool())
    ledger.verify_model(module)


def test_features_and_logits_are_those_of_the_last_training_forward(tmp_path):
    seen = {}

    def keep(run, module, outputs, batch):
        for row, i in enumerate((batch[0][:, -1] - 1000).int().tolist()):
            seen[i] = heard[-1][row], outputs["logits"].detach()[row]

    heard, module = [], Toy(base=False, dropout=0.5)
    module.net[3].register_forward_hook(lambda _m, inputs, _o: heard.append(inputs[0].detach()))
    settings = {"keep": {"features": "float16", "logits": "float32"}}
    callback, _ = pretrain(tmp_path / "l", module, OnBatchEnd(keep), settings=settings)
    features, logits = (torch.stack(rows) for rows in zip(*(seen[i] for i in range(N_POOL)), strict=True))
    assert np.array_equal(callback.ledger.column("features"), features.half())
    assert np.array_equal(callback.ledger.column("logits"), logits)
    assert (callback.ledger.forwards, module.rows_forwarded) == (0, 3 * N_POOL)


def test_kept_features_serve_the_head_probe(tmp_path):
    _, module = pretrain(tmp_path / "l", settings={"keep": ["features"]})
    probe = HeadProbe()
    callback = RehearsalCallback(probe, pool=pool(), ledger=tmp_path / "l", mix_ratio=0.5)
    trainer(callback, max_epochs=1).fit(module, DataLoader(finetune(), 8))
    margins = probe.margins(np.arange(N_POOL), probe.signal())
    x, y = pool().tensors
    with torch.no_grad():
        right = module.net(x[:, :-1]).argmax(1) == y
    assert ((margins > 0) == right).float().mean() > 0.8


def test_what_no_forward_shows_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'`keep` may hold "features" and "logits", got \[\'genre\'\]'):
        LedgerCallback(tmp_path / "l", IndexedDataset(pool()), keep=["genre"])


def test_training_is_the_same_with_and_without(tmp_path):
    modules = []
    for path in (tmp_path / "l", None):
        pl.seed_everything(1, verbose=False)
        module = Toy(base=False, dropout=0.5)
        if path:
            pretrain(path, module)
        else:
            trainer(max_epochs=3).fit(module, DataLoader(pool(), 8, shuffle=True))
        modules.append(module)
    assert modules[0].seen == modules[1].seen
    assert all(map(torch.equal, *(m.parameters() for m in modules)))


def test_recorded_ledger_serves_the_finetuning(tmp_path):
    _, module = pretrain(tmp_path / "l")
    module.seen.clear()
    callback = RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l")
    trainer(callback).fit(module, DataLoader(finetune(), 8))
    assert callback.compute_units == 3 * 50
    assert "on_before_batch_transfer" not in module.__dict__


class Hooked(Toy):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return x, y


def test_transfer_hooks_see_the_users_batch(tmp_path):
    pretrain(tmp_path / "l", Hooked(base=False))
    assert Ledger.open(tmp_path / "l").size == N_POOL


def test_named_submodule_is_listened_to(tmp_path):
    module = LossOnly(base=False)
    hooks = len(module.net._forward_hooks)
    pretrain(tmp_path / "l", module, settings={"readout": Readout(module="net")})
    assert len(module.net._forward_hooks) == hooks
    assert Ledger.open(tmp_path / "l").size == N_POOL


def test_own_collate_function(tmp_path):
    def collate(samples):
        return [torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])]

    pretrain(tmp_path / "l", data=IndexedDataset(pool(), collate_fn=collate))
    assert Ledger.open(tmp_path / "l").size == N_POOL


OF_BATCHES = {"batch_size": 1, "shuffle": None}  # what a loader asks for beside a batch sampler


@pytest.mark.parametrize(
    "batches", [BatchSampler(range(N_POOL), 8, drop_last=False), [[i, i + 1] for i in range(0, N_POOL, 2)]]
)
def test_own_batch_sampler(batches, tmp_path):
    callback, _ = pretrain(tmp_path / "l", batch_sampler=batches, **OF_BATCHES)
    assert callback.ledger.size == N_POOL


@pytest.mark.parametrize(
    "settings",
    [
        {"drop_last": True},
        {"sampler": RandomSampler(pool(), num_samples=40), "shuffle": None},
        {"batch_sampler": BatchSampler(range(N_POOL), 8, drop_last=True), **OF_BATCHES},
    ],
)
def test_epoch_that_leaves_samples_out_is_refused_before_the_first_step(settings, tmp_path):
    module = Toy(base=False)
    with pytest.raises(
        LedgerError, match=r"Every epoch must hold all 60 samples of the pool, got \d+\. Leave"
    ):
        pretrain(tmp_path / "l", module, **settings)
    assert module.seen == []


def test_limited_epoch_is_refused_before_the_first_step(tmp_path):
    data, module = IndexedDataset(pool()), Toy(base=False)
    with pytest.raises(LedgerError, match="must hold all 60 samples of the pool, got 16"):
        trainer(LedgerCallback(tmp_path / "l", data), limit_train_batches=2).fit(
            module, data.loader(batch_size=8)
        )
    assert module.seen == []


def test_finished_ledger_is_refused_before_the_first_step(tmp_path):
    pretrain(tmp_path / "l")
    module = Toy(base=False)
    with pytest.raises(LedgerError, match="`path` must not hold a finished ledger"):
        pretrain(tmp_path / "l", module)
    assert module.seen == []


def test_sampler_that_repeats_costs_the_ledger_and_not_the_training(tmp_path):
    class Ended(pl.Callback):
        ends = 0

        def on_train_end(self, trainer, pl_module):
            self.ends += 1

    torch.manual_seed(0)
    sampler, other = RandomSampler(pool(), replacement=True), Ended()
    with pytest.warns(UserWarning, match=r"No ledger was recorded.*hold all 60 samples of the pool, got \d"):
        callback, module = pretrain(tmp_path / "l", None, other, sampler=sampler, shuffle=None)
    assert (callback.ledger, other.ends) == (None, 1)
    with pytest.raises(LedgerError, match=r"is unfinished: \d+ of 60 recorded"):
        Ledger.open(tmp_path / "l")
    assert record_ledger(module, pool(), tmp_path / "other").size == N_POOL


def test_rows_of_another_training_do_not_count(tmp_path):
    data, seen = IndexedDataset(pool()), set()
    for first in (0, 30, 0, 30):
        callback, module = LedgerCallback(tmp_path / "l", data), Toy(base=False)
        loader = data.loader(batch_size=10, sampler=[*range(first, first + 30)] * 2)
        with pytest.warns(UserWarning, match="must hold all 60 samples of the pool, got 30"):
            trainer(callback, max_epochs=1).fit(module, loader)
        seen |= {*flat(module.seen)}
    assert len(seen) == N_POOL
    callback, module = LedgerCallback(tmp_path / "l", data), Toy(base=False)
    trainer(callback, max_epochs=1).fit(module, data.loader(batch_size=10))
    assert callback.ledger.size == N_POOL


def test_loss_that_is_not_finite_costs_the_ledger_and_not_the_training(tmp_path):
    class Broken(Toy):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)["loss"]
            return {"loss": loss, "correct": batch[1] == 0, "losses": torch.full((len(batch[1]),), torch.inf)}

    with pytest.warns(UserWarning, match=r"No ledger was recorded: `loss` of pool index \d+ is inf, but"):
        callback, module = pretrain(tmp_path / "l", Broken(base=False))
    assert callback.ledger is None
    assert len(module.seen) == 3 * 8


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")  # on purpose
def test_batch_that_the_module_skips_costs_the_ledger_and_not_the_training(tmp_path):
    class Skipping(Toy):
        def training_step(self, batch, batch_idx):
            outputs = super().training_step(batch, batch_idx)
            return None if batch_idx == 0 else outputs

    with pytest.warns(UserWarning, match=r"No ledger was recorded.*hold all 60 samples of the pool, got 52"):
        callback, module = pretrain(tmp_path / "l", Skipping(base=False))
    assert callback.ledger is None
    assert len(module.seen) == 3 * 8


def test_outputs_that_cannot_be_read_are_refused_at_the_first_batch(tmp_path):
    module = LossOnly(base=False)
    with pytest.raises(CaptureError, match="cannot be read"):
        pretrain(tmp_path / "l", module)
    assert len(module.seen) == 1


@pytest.mark.parametrize("others", [[], [pl.callbacks.LearningRateFinder(num_training_steps=2)]])
def test_example_inputs_have_no_indices(others, tmp_path):
    class Summarized(Toy):
        """Lightning's summary sends its example through the batch hooks before training."""

        example_input_array = torch.zeros(2, 4)

        def forward(self, x):
            return self.net(x)

    data = IndexedDataset(pool())
    callback = LedgerCallback(tmp_path / "l", data)
    run = trainer(callback, *others, enable_model_summary=True, default_root_dir=tmp_path)
    run.fit(Summarized(base=False), data.loader(batch_size=8))
    assert callback.ledger.size == N_POOL


def test_loader_that_loses_the_indices_is_refused(tmp_path):
    data, module = IndexedDataset(pool()), Toy(base=False)
    with pytest.raises(LedgerError, match=r"must collate with `dataset.collate`.*`dataset.loader"):
        trainer(LedgerCallback(tmp_path / "l", data)).fit(module, DataLoader(data, 8))
    assert module.seen == []


def test_loader_of_something_else_is_refused(tmp_path):
    for loader in (DataLoader(pool(), 8), IndexedDataset(pool()).loader(batch_size=8)):
        callback, module = LedgerCallback(tmp_path / "l", IndexedDataset(pool())), Toy(base=False)
        with pytest.raises(
            LedgerError, match="`dataset` must be the `IndexedDataset` that the training loader"
        ):
            trainer(callback).fit(module, loader)
        assert module.seen == []


def test_plain_dataset_is_refused(tmp_path):
    with pytest.raises(TypeError, match="`dataset` must be an `IndexedDataset`, got TensorDataset"):
        LedgerCallback(tmp_path / "l", pool())


@pytest.mark.parametrize("max_epochs", [-1])
def test_last_epoch_must_be_known(max_epochs, tmp_path):
    with pytest.raises(ValueError, match=r"`max_epochs` must be set.*got -1"):
        pretrain(tmp_path / "l", max_epochs=max_epochs)


def test_other_stages_are_left_alone(tmp_path):
    module = Toy()
    run = trainer(LedgerCallback(tmp_path / "l", IndexedDataset(pool())))
    assert run.validate(module, DataLoader(finetune(), 8), verbose=False)[0]["val_loss"] > 0
    assert not (tmp_path / "l").exists()


def test_several_processes_are_refused(tmp_path):
    class Two:
        world_size, max_epochs = 2, 3

    with pytest.raises(ValueError, match=r"records on one process, got 2\. Use `record_ledger` afterwards"):
        LedgerCallback(tmp_path / "l", IndexedDataset(pool())).setup(Two(), Toy(), "fit")


@pytest.mark.parametrize("epoch", [0, 1])
def test_training_that_ends_early_leaves_no_ledger_and_says_so(epoch, tmp_path):
    class Stop(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == epoch

    with pytest.warns(UserWarning, match=r"No ledger was recorded.*before its last epoch \(3\)"):
        callback, _ = pretrain(tmp_path / "l", None, Stop())
    assert callback.ledger is None
    assert not (tmp_path / "l").exists()


@pytest.mark.parametrize("n_batches", [1, 100])
def test_fast_dev_run_records_nothing(n_batches, tmp_path):
    data, module = IndexedDataset(pool()), Toy(base=False)
    callback = LedgerCallback(tmp_path / "l", data)
    trainer(callback, fast_dev_run=n_batches).fit(module, data.loader(batch_size=8))
    assert len(module.seen) == min(n_batches, 8)
    assert callback.ledger is None
    assert not (tmp_path / "l").exists()


def test_fast_dev_run_finds_outputs_that_cannot_be_read(tmp_path):
    data = IndexedDataset(pool())
    with pytest.raises(CaptureError, match="cannot be read"):
        trainer(LedgerCallback(tmp_path / "l", data), fast_dev_run=True).fit(
            LossOnly(base=False), data.loader(batch_size=8)
        )


def test_exception_puts_the_hook_back(tmp_path):
    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("the user's own")

    module = Failing()
    with pytest.raises(RuntimeError, match="the user's own"):
        pretrain(tmp_path / "l", module)
    assert "on_before_batch_transfer" not in module.__dict__


def test_validation_is_not_recorded(tmp_path):
    data, module = IndexedDataset(pool()), Toy(base=False)
    callback = LedgerCallback(tmp_path / "l", data)
    trainer(callback, num_sanity_val_steps=1).fit(
        module, data.loader(batch_size=8), DataLoader(finetune(), 8)
    )
    assert callback.ledger.size == N_POOL


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")  # it should
def test_checkpoint_brings_to_disk_what_a_resumed_run_does_not_see_again(tmp_path):
    data, on_disk = IndexedDataset(pool()), []

    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            if self.current_epoch == 1 and batch_idx == 5:
                on_disk.append(int(np.load(tmp_path / "l" / "recorded.npy").sum()))
                raise RuntimeError("the user's own")
            return super().training_step(batch, batch_idx)

    order = [*range(N_POOL)]

    def fit(module, order, ckpt_path=None):
        keep = pl.callbacks.ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1, filename="{step}")
        callback = LedgerCallback(tmp_path / "l", data)
        trainer(callback, keep, max_epochs=2, enable_checkpointing=True).fit(
            module, data.loader(batch_size=8, sampler=order), ckpt_path=ckpt_path
        )
        return callback

    with pytest.raises(RuntimeError, match="the user's own"):
        fit(Failing(base=False), order)
    assert on_disk == [4 * 8]  # step 12 ends the fourth batch of the second epoch
    # Lightning starts a plain loader anew in mid-epoch, for as many batches as are left.
    resumed = fit(Toy(base=False), order[4 * 8 :] + order[: 4 * 8], tmp_path / "step=12.ckpt")
    assert resumed.ledger.size == N_POOL


def test_coordinates_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"features as they are, got 8 coord.*Use `record_ledger`"):
        LedgerCallback(tmp_path / "l", IndexedDataset(pool()), keep={"features": ("float16", 8)})


@pytest.mark.parametrize("num_workers", [0, 1])
def test_only_workers_open_what_workers_read(num_workers, tmp_path):
    dataset = Opening()
    pretrain(tmp_path / "l", data=IndexedDataset(dataset), num_workers=num_workers)
    assert dataset.opened == (num_workers == 0)
    Ledger.open(tmp_path / "l").verify_pool(dataset)
