"""Settings of the Trainer and habits of modules, each with rehearsal switched on."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from torch.utils.data import DataLoader, default_collate

from lightning_mixcd import MixCD, Pool, RehearsalCallback, RehearsalDataModule, Uniform, UniformCorrect
from lightning_mixcd.penalties import AGEM
from tests.toys import (
    Finetune,
    Listed,
    Toy,
    finetune,
    finetuned,
    flat,
    ids,
    ledger,
    pool,
    rehearsed,
    trainer,
    weights,
)


def fit(module=None, *others, mix_ratio=0.5, loader=None, val=None, lag=8, **settings):
    module, strategy = module or Toy(), MixCD()
    callback = RehearsalCallback(strategy, pool=Pool(pool(), lag=lag), ledger=ledger(), mix_ratio=mix_ratio)
    run = trainer(callback, *others, **settings)
    run.fit(module, DataLoader(finetune(), 8) if loader is None else loader, val)
    return module, strategy, run


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_precision(precision):
    module, strategy, _ = fit(precision=precision, max_epochs=2)
    assert [len(step) for step in rehearsed(module)] == [4] * 10
    assert float(strategy.estimator.seen.sum()) > 20
    assert strategy.estimator.seen.dtype == torch.float32


@pytest.mark.parametrize(("limit", "n_steps"), [(3, 3), (0.4, 2), (1, 1)])
def test_limit_train_batches(limit, n_steps):
    module, _, _ = fit(limit_train_batches=limit, max_epochs=2)
    assert [len(step) for step in module.seen] == [12] * n_steps * 2


def test_overfit_batches():
    module, _, _ = fit(overfit_batches=2, max_epochs=2)
    assert finetuned(module) == [[*range(8)], [*range(8, 16)]] * 2
    assert len(set(flat(rehearsed(module)))) == 16


def test_max_steps():
    module, _, run = fit(max_steps=7, max_epochs=-1)
    assert len(module.seen) == run.global_step == 7


def test_fast_dev_run():
    module, _, _ = fit(fast_dev_run=2, val=DataLoader(finetune(), 8))
    assert [len(step) for step in module.seen] == [12] * 2


def test_reloaded_loaders():
    module = Toy()
    callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5)
    trainer(callback, reload_dataloaders_every_n_epochs=1, max_epochs=3).fit(
        module, DataLoader(finetune(), 8)
    )
    assert len(set(flat(rehearsed(module)))) == 60  # 3 x 20 rows: the draws go on


def test_gradient_clipping_detect_anomaly_and_determinism():
    module, _, _ = fit(gradient_clip_val=0.1, detect_anomaly=True, max_epochs=1)
    assert len(module.seen) == 5


def test_accumulation_that_changes():
    module, _, run = fit(None, GradientAccumulationScheduler({0: 1, 1: 2}), max_epochs=2)
    assert len(module.seen) == 10
    assert run.global_step == 5 + 3


def test_schedule_of_learning_rates_by_the_number_of_steps():
    class OneCycle(Toy):
        def configure_optimizers(self):
            steps = self.trainer.estimated_stepping_batches
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=steps)
            self.steps = steps
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    for order_seed in (None, 3):
        module = OneCycle()
        data = RehearsalDataModule(Finetune(num_workers=1), pool(), ledger=ledger(), order_seed=order_seed)
        trainer(RehearsalCallback(MixCD()), max_epochs=2).fit(module, datamodule=data)
        assert module.steps == len(module.seen) == 10


def test_early_stopping_and_best_checkpoint(tmp_path):
    best = ModelCheckpoint(tmp_path, monitor="val_loss")
    module, _, run = fit(
        None,
        EarlyStopping("val_loss", patience=1),
        best,
        max_epochs=5,
        enable_checkpointing=True,
        val=DataLoader(finetune(), 40),
    )
    found = run.validate(module, DataLoader(finetune(), 40), ckpt_path="best", verbose=False)
    assert found[0]["val_loss"] == pytest.approx(float(best.best_model_score))


def test_stochastic_weight_averaging():
    # It copies the module in mid-run.
    module, _, _ = fit(None, StochasticWeightAveraging(0.1, swa_epoch_start=1), max_epochs=3)
    assert len(module.seen) >= 15


def test_frozen_layers_stay_frozen():
    module = Toy()
    module.net[0].requires_grad_(requires_grad=False).eval()
    before = module.net[0].weight.clone()
    fit(module)
    assert torch.equal(module.net[0].weight, before)
    assert not module.net[0].training


def test_several_training_loaders_at_once():
    class Two(Toy):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch["a"], batch_idx)

    both = {"a": DataLoader(finetune(), 8), "b": DataLoader(finetune(), 8)}
    module = Two()
    one = Pool(pool(), collate_fn=lambda s: {key: torch.utils.data.default_collate(s) for key in "ab"})
    callback = RehearsalCallback(Uniform(), pool=one, mix_ratio=0.5)
    trainer(callback).fit(module, both)
    assert [len(step) for step in module.seen] == [12] * 5


def test_module_with_its_own_loader():
    class Own(Toy):
        def train_dataloader(self):
            return DataLoader(finetune(), 8)

    module = Own()
    callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5)
    trainer(callback).fit(module)
    assert [len(step) for step in module.seen] == [12] * 5


def test_loader_without_a_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from finetune()

    module, _, _ = fit(loader=DataLoader(Stream(), 8), max_epochs=2)
    assert finetuned(module) == [[*range(s, s + 8)] for s in range(0, 40, 8)] * 2
    assert [len(step) for step in rehearsed(module)] == [4] * 10


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None:UserWarning")  # the case itself
@pytest.mark.parametrize("accumulate", [1, 2])
def test_batches_that_are_none_are_left_out(accumulate):
    def collate(samples):
        return None if int(samples[0][0][-1]) in (0, 16) else default_collate(samples)

    loader = DataLoader(finetune(), 8, collate_fn=collate)
    module, strategy, run = fit(loader=loader, lag=1, max_epochs=2, accumulate_grad_batches=accumulate)
    assert [len(step) for step in rehearsed(module)] == [4] * 6
    assert float(strategy.estimator.seen.sum()) == pytest.approx(24, rel=0.05)
    assert run.callbacks[0].compute_units == 3 * 6 * 12


def test_first_batch_may_be_empty():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from ([part[start:stop] for part in finetune().tensors] for start, stop in ((0, 0), (0, 8)))

    module, _, _ = fit(loader=DataLoader(Stream(), batch_size=None))
    assert [len(step) for step in rehearsed(module)] == [0, 4]


class FindsRate(LearningRateFinder):
    """Tries learning rates at the start of an epoch, and forgets what the module saw meanwhile."""

    def __init__(self, epoch):
        super().__init__(num_training_steps=7, early_stop_threshold=None, update_attr=False)
        self.epoch = epoch

    def on_fit_start(self, trainer, pl_module):
        """Too early here."""

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            seen = [*pl_module.seen]
            self.lr_find(trainer, pl_module)
            assert len(pl_module.seen) > len(seen)
            pl_module.seen = seen


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("penalties", [[], [AGEM()]])
def test_run_goes_on_as_it_was_after_learning_rates_were_tried(epoch, penalties, tmp_path):
    def run(*others):
        module, strategy = Toy(), UniformCorrect() if penalties else MixCD()
        callback = RehearsalCallback(strategy, pool=pool(), ledger=ledger(), penalties=penalties)
        trainer(callback, *others, max_epochs=3, default_root_dir=tmp_path).fit(
            module, DataLoader(finetune(), 8)
        )
        return module.seen, weights(module).tolist(), callback.compute_units

    assert run(FindsRate(epoch)) == run()


def test_closure_that_is_called_several_times_a_step():
    class Lbfgs(Toy):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=3)

    _, strategy, _ = fit(Lbfgs(), limit_train_batches=2, lag=1)
    assert float(strategy.estimator.seen.sum()) == pytest.approx(8, rel=0.05)  # 2 x 4 rows, once each


def test_values_are_logged_beside_the_users_own():
    logger = Listed()
    fit(logger=logger, log_every_n_steps=1)
    assert all({"train_loss", "rehearsal/damage_rate"} <= set(row) for _, row in logger.rows)


def test_progress_bars_and_checkpoints_of_lightning(tmp_path, capsys):
    module, _, _ = fit(
        enable_progress_bar=True, enable_checkpointing=True, default_root_dir=tmp_path, max_epochs=1
    )
    assert len(module.seen) == 5
    assert "Epoch 0" in "".join(capsys.readouterr())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_workers_end_with_the_run(num_workers):
    import multiprocessing

    callback = RehearsalCallback(Uniform(), pool=Pool(pool(), num_workers=num_workers))
    trainer(callback).fit(Toy(), DataLoader(finetune(), 8))
    assert multiprocessing.active_children() == []


class DrawsGraph(Listed):
    def log_graph(self, model, input_array=None):
        """As TensorBoard's logger does."""
        model(model._apply_batch_transfer_handler(model.example_input_array))


@pytest.mark.parametrize("settings", [{"enable_model_summary": True}, {"logger": DrawsGraph()}])
@pytest.mark.parametrize("others", [[], [LearningRateFinder(num_training_steps=2, update_attr=False)]])
def test_example_inputs_are_no_batches(settings, others, tmp_path):
    class Alone(Toy):
        """Its batches are tensors, so that pool rows could be added to the example."""

        def training_step(self, batch, batch_idx):
            self.seen.append(ids(batch))
            return self(batch).square().mean()

        def forward(self, x):
            return self.net(x[:, :-1])

    def run(module, **settings):
        x, new = ([row for row, _ in rows] for rows in (pool(), finetune()))
        callback = RehearsalCallback(Uniform(), pool=x, mix_ratio=0.5)
        trainer(callback, *others, **settings, default_root_dir=tmp_path).fit(module, DataLoader(new, 8))
        return module.seen, weights(module).tolist()

    module = Alone()
    module.example_input_array = torch.zeros(2, 5)
    assert run(module, **settings) == run(Alone())


@pytest.mark.parametrize("when", ["on_train_epoch_end", "on_train_end"])
def test_inputs_that_a_module_is_exported_with_are_no_batches(when):
    class Exporting(pl.Callback):
        """As `to_onnx` does."""

        def export(self, trainer, pl_module):
            example = pl_module._on_before_batch_transfer(torch.zeros(2, 5))
            exported.append(pl_module._apply_batch_transfer_handler(example).tolist())

    exporting, exported = Exporting(), []
    setattr(exporting, when, exporting.export)
    module, _, _ = fit(None, exporting, max_epochs=2)
    alone, _, _ = fit(max_epochs=2)
    assert exported == [torch.zeros(2, 5).tolist()] * len(exported) != []
    assert module.seen == alone.seen


def test_learning_goes_on_in_a_second_fit_of_a_trainer():
    module, callback = Toy(), RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5)
    run = trainer(callback)
    run.fit(module, DataLoader(finetune(), 8))
    first = weights(module)
    run.fit_loop.max_epochs = 2
    run.fit(module, DataLoader(finetune(), 8))
    assert [len(step) for step in module.seen] == [12] * 10
    assert not torch.equal(weights(module), first)


class Sees(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.rows = len(batch[0])


def test_other_callbacks_see_the_joined_batch():
    sees = Sees()
    fit(None, sees)
    assert sees.rows == 12
