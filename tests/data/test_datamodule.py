"""The datamodule: the user's one behaves as without it, and both wirings give one run."""

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_mixcd import MixCD, NoRehearsal, Pool, RehearsalCallback, RehearsalDataModule, Uniform
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


def run(callback, data, *, module=None, seed=5, **settings):
    pl.seed_everything(seed, verbose=False)
    module, logger = module or Toy(dropout=0.3), Listed()
    settings = {"logger": logger, "log_every_n_steps": 1, "max_epochs": 2, **settings}
    trainer(callback, **settings).fit(module, datamodule=data)
    return module, logger.rows


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_both_wirings_give_the_same_run(shuffle, num_workers):
    settings = {"ledger": ledger(), "mix_ratio": 0.4}
    ours = Pool(pool(), num_workers=num_workers)
    by_callback = run(RehearsalCallback(MixCD(), pool=ours, **settings), Finetune(shuffle=shuffle))
    by_data = run(
        RehearsalCallback(MixCD()), RehearsalDataModule(Finetune(shuffle=shuffle), ours, **settings)
    )
    assert by_callback[0].seen == by_data[0].seen
    assert torch.equal(weights(by_callback[0]), weights(by_data[0]))
    assert by_callback[1] == by_data[1]
    assert sum(map(len, rehearsed(by_data[0]))) == 32


def test_both_wirings_record_the_same_ledger(tmp_path):
    one = run(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "1"), Finetune(shuffle=True))
    data = RehearsalDataModule(Finetune(shuffle=True), pool(), ledger=tmp_path / "2")
    two = run(RehearsalCallback(MixCD()), data)
    assert one[0].seen == two[0].seen
    assert one[1] == two[1]


def test_hyperparameters_are_logged_and_saved_as_without_it(tmp_path):
    class Saves(Finetune):
        def __init__(self, batch_size, label="cat"):
            super().__init__(batch_size=batch_size)
            self.save_hyperparameters()

    class Asked(Listed):
        def log_hyperparams(self, params):
            self.params = params

    def saved(data):
        logger = Asked()
        run = trainer(RehearsalCallback(Uniform()), logger=logger)
        run.fit(Toy(), datamodule=data)
        run.save_checkpoint(tmp_path / "saved.ckpt")
        return logger.params, Saves.load_from_checkpoint(tmp_path / "saved.ckpt").hparams

    logged, loaded = saved(RehearsalDataModule(own := Saves(4), pool()))
    assert (logged, loaded) == ({"batch_size": 4, "label": "cat"}, own.hparams)


def test_hyperparameters_of_a_subclass_come_on_top():
    class Both(RehearsalDataModule):
        def __init__(self, tau):
            super().__init__(own, pool())
            self.save_hyperparameters()

    own = Finetune()
    own.save_hyperparameters({"label": "cat"})
    assert Both(0.5).hparams == {"label": "cat", "tau": 0.5}
    assert own.hparams == {"label": "cat"}


def test_plain_loader_gives_the_same_run_too():
    module = Toy(dropout=0.3)
    pl.seed_everything(5, verbose=False)
    module = Toy(dropout=0.3)
    callback = RehearsalCallback(Uniform(), pool=pool())
    trainer(callback, max_epochs=2).fit(module, DataLoader(finetune(), 8, shuffle=True))
    data = RehearsalDataModule(Finetune(shuffle=True), pool())
    assert run(RehearsalCallback(Uniform()), data, logger=False)[0].seen == module.seen


def test_order_seed_makes_the_order_independent_of_the_global_one():
    def fit(seed):
        data = RehearsalDataModule(Finetune(shuffle=True), pool(), order_seed=1)
        return finetuned(run(RehearsalCallback(Uniform()), data, seed=seed)[0])

    assert fit(1) == fit(2)
    assert sorted(flat(fit(1)[:5])) == [*range(40)]


class Full(Finetune):
    """Everything that a datamodule may have; tells what was called."""

    def __init__(self):
        super().__init__()
        self.called, self.prepare_data_per_node = [], False
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def prepare_data(self):
        self.called.append(("prepare_data", self.trainer is not None))

    def setup(self, stage):
        self.called.append(("setup", stage, self.trainer is not None))

    def teardown(self, stage):
        self.called.append(("teardown", stage))

    def on_exception(self, exception):
        self.called.append(("on_exception", str(exception)))

    def val_dataloader(self):
        return [DataLoader(finetune(), 20), DataLoader(finetune(), 40)]

    def test_dataloader(self):
        return DataLoader(finetune(), 20)

    def predict_dataloader(self):
        return DataLoader(finetune(), batch_size=10)

    def state_dict(self):
        return {"called": len(self.called)}

    def load_state_dict(self, state_dict):
        self.called.append(("load_state_dict", state_dict))


class Watching(Toy):
    def __init__(self):
        super().__init__()
        self.evaluated = []

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append(("val", dataloader_idx, ids(batch[0])))

    def test_step(self, batch, batch_idx):
        self.evaluated.append(("test", 0, ids(batch[0])))

    def predict_step(self, batch, batch_idx):
        self.evaluated.append(("predict", 0, ids(batch[0])))
        return batch[1]


def test_hooks_of_the_users_datamodule_are_called():
    full = Full()
    data = RehearsalDataModule(full, pool())
    assert (data.prepare_data_per_node, data.allow_zero_length_dataloader_with_multiple_devices) == (
        False,
        True,
    )
    run(RehearsalCallback(Uniform()), data, max_epochs=1)
    assert full.called == [("prepare_data", True), ("setup", "fit", True), ("teardown", "fit")]


def test_exception_reaches_the_users_datamodule():
    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("the user's own")

    full = Full()
    with pytest.raises(RuntimeError, match="the user's own"):
        run(RehearsalCallback(Uniform()), RehearsalDataModule(full, pool()), module=Failing())
    assert full.called[-1] == ("on_exception", "the user's own")


def test_loaders_of_other_stages_are_the_users():
    module, data = Watching(), RehearsalDataModule(Full(), pool())
    bench = trainer(RehearsalCallback(Uniform()))
    bench.validate(module, datamodule=data, verbose=False)
    bench.test(module, datamodule=data, verbose=False)
    bench.predict(module, datamodule=data)
    assert [(stage, place, len(rows)) for stage, place, rows in module.evaluated] == [
        ("val", 0, 20),
        ("val", 0, 20),
        ("val", 1, 40),
        ("test", 0, 20),
        ("test", 0, 20),
        *[("predict", 0, 10)] * 4,
    ]


def test_prior_task_is_validated_after_the_new_one():
    module = Watching()
    data = RehearsalDataModule(Full(), pool(), prior_val=DataLoader(pool(), 30))
    run(RehearsalCallback(Uniform()), data, module=module, max_epochs=1, num_sanity_val_steps=0)
    assert [(place, len(rows)) for _, place, rows in module.evaluated] == [
        (0, 20),
        (0, 20),
        (1, 40),
        (2, 30),
        (2, 30),
    ]
    assert module.evaluated[-1][2][-1] == 1059


class Combined(Full):
    mode = "sequential"

    def val_dataloader(self):
        return pl.utilities.CombinedLoader(super().val_dataloader(), self.mode)


def test_loaders_that_the_user_has_combined_come_before_the_prior_task():
    module, user = Watching(), Combined()
    data = RehearsalDataModule(user, pool(), prior_val=DataLoader(pool(), 30))
    run(RehearsalCallback(Uniform()), data, module=module, max_epochs=1, num_sanity_val_steps=0)
    seen = [(place, len(rows)) for _, place, rows in module.evaluated]
    assert seen == [(0, 20), (0, 20), (1, 40), (2, 30), (2, 30)]

    user.mode = "max_size"
    with pytest.raises(TypeError, match=r"one after the other beside `prior_val`, got .* 'max_size'"):
        run(RehearsalCallback(Uniform()), data, max_epochs=1)


def test_prior_task_alone_is_validated():
    module = Watching()
    data = RehearsalDataModule(Finetune(), pool(), prior_val=DataLoader(pool(), 30))
    run(RehearsalCallback(Uniform()), data, module=module, max_epochs=1, num_sanity_val_steps=0)
    assert [(place, len(rows)) for _, place, rows in module.evaluated] == [(0, 30), (0, 30)]


def test_without_validation_loaders_nothing_is_validated():
    # Lightning warns of an empty list of loaders, and warnings are errors here.
    module = Watching()
    run(RehearsalCallback(Uniform()), RehearsalDataModule(Finetune(), pool()), module=module, max_epochs=1)
    assert module.evaluated == []


def test_state_of_the_users_datamodule_is_saved_and_loaded(tmp_path):
    for user, expected in ((Full(), {"finetune": {"called": 2}}), (Finetune(), None)):
        data = RehearsalDataModule(user, pool())
        bench = trainer(RehearsalCallback(Uniform()))
        bench.fit(Toy(), datamodule=data)
        bench.save_checkpoint(tmp_path / "end.ckpt")
        saved = torch.load(tmp_path / "end.ckpt", weights_only=True).get("RehearsalDataModule")
        assert saved == (expected and {"finetune": {"called": 3}})
        again = type(user)()
        trainer(RehearsalCallback(Uniform()), max_epochs=2).fit(
            Toy(), datamodule=RehearsalDataModule(again, pool()), ckpt_path=tmp_path / "end.ckpt"
        )
        if expected:
            assert ("load_state_dict", {"called": 3}) in again.called


def test_another_order_is_refused_amid_a_run_only(tmp_path):
    def fit(order_seed, n_epochs, **given):
        data = RehearsalDataModule(
            Finetune(), pool(), order_seed=order_seed, prior_val=DataLoader(pool(), 60)
        )
        bench, module = trainer(RehearsalCallback(Uniform()), max_epochs=n_epochs), Toy()
        bench.fit(module, datamodule=data, **given)
        bench.save_checkpoint(tmp_path / f"{order_seed}.ckpt")
        return bench, module, data

    bench, module, data = fit(3, 1)
    for other in (4, None):
        with pytest.raises(ValueError, match=rf"`order_seed` must be .*, 3, got {other}.* Pass order_seed=3"):
            fit(other, 2, ckpt_path=tmp_path / "3.ckpt")
    fit(None, 1)
    fit(4, 2, ckpt_path=tmp_path / "None.ckpt")
    bench.validate(module, datamodule=data, ckpt_path=tmp_path / "4.ckpt", verbose=False)


class Part(Finetune):
    """Of the new task, so many samples."""

    def __init__(self, n, **settings):
        super().__init__(shuffle=True, **settings)
        self.n = n

    def train_dataloader(self):
        return DataLoader(torch.utils.data.Subset(finetune(), range(self.n)), **self.settings)


def in_order(data, module=None, **settings):
    data = data if isinstance(data, RehearsalDataModule) else RehearsalDataModule(data, pool(), order_seed=0)
    callback, module = RehearsalCallback(NoRehearsal()), module or Toy()
    ckpt_path, save = settings.pop("ckpt_path", None), settings.pop("save", None)
    run = trainer(callback, **{"max_epochs": -1, **settings})
    run.fit(module, datamodule=data, ckpt_path=ckpt_path)
    if save is not None:
        run.save_checkpoint(save)
    return module.seen


@pytest.mark.parametrize(
    ("first", "second"),
    [(Part(24), Part(40)), (Part(40), Part(24)), (Part(40), Part(40, batch_size=5)), (Part(40), Part(33))],
)
def test_other_data_may_follow_at_the_end_of_an_epoch(first, second, tmp_path):
    path, n_batches = tmp_path / "a.ckpt", len(first.train_dataloader())
    in_order(first, max_steps=2 * n_batches, save=path)
    of_second, steps = len(second.train_dataloader()), 2 * n_batches
    seen = in_order(second, max_steps=steps + 2 * of_second, ckpt_path=path)
    epochs = flat(seen[:of_second]), flat(seen[of_second:])
    assert [sorted(order) for order in epochs] == [[*range(second.n)]] * 2
    whole = in_order(Part(second.n, batch_size=second.settings["batch_size"]), max_steps=4 * of_second)
    assert seen == whole[2 * of_second :]


def test_other_data_begin_the_next_epoch_amid_one(tmp_path):
    path = tmp_path / "a.ckpt"
    in_order(Part(40), max_steps=7, save=path)
    with pytest.warns(UserWarning, match="amid an epoch of 5 batches per process, got one of 8: the rest"):
        seen = in_order(Part(40, batch_size=5), max_steps=7 + 16, ckpt_path=path)
    assert seen == in_order(Part(40, batch_size=5), max_steps=4 * 8)[16:]


class Planning(Toy):
    """Asks for the number of steps, for which Lightning makes the loader before it restores its counts."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches
        return super().configure_optimizers()


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_resumed_order_goes_on_where_the_loader_is_made_early(num_workers, tmp_path):
    def seen(ckpt_path=None):
        module, data = Planning(), Part(40, num_workers=num_workers)
        keep = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
        run = trainer(RehearsalCallback(NoRehearsal()), keep, max_epochs=3, enable_checkpointing=True)
        data = RehearsalDataModule(data, pool(), order_seed=0)
        run.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module.seen

    whole = seen()
    for n_steps in (3, 5, 8, 11):
        assert seen(tmp_path / f"step={n_steps}.ckpt") == whole[n_steps:]


@pytest.mark.parametrize("first", [Part(40), Part(24)])
def test_second_fit_is_resumed_in_its_own_order(first, tmp_path):
    path, n_batches = tmp_path / "a.ckpt", len(first.train_dataloader())
    modules = [Toy(), Toy(), Toy()]
    for n_steps, module in ((10, modules[0]), (3, modules[1])):
        run = trainer(RehearsalCallback(NoRehearsal()), max_steps=n_batches, max_epochs=-1)
        run.fit(module, datamodule=RehearsalDataModule(first, pool(), order_seed=0))
        run.fit_loop.epoch_loop.max_steps = n_batches + n_steps
        run.fit(module, datamodule=RehearsalDataModule(Part(40), pool(), order_seed=0))
    run.save_checkpoint(path)
    whole, begun = (module.seen[n_batches:] for module in modules[:2])
    assert begun + in_order(Part(40), max_steps=n_batches + 10, ckpt_path=path) == whole


@pytest.mark.parametrize("mix_ratio", [0, 17])
def test_mix_ratio_out_of_range_is_refused(mix_ratio):
    with pytest.raises(ValueError, match="`mix_ratio` must be above 0 and at most 16"):
        RehearsalDataModule(Finetune(), pool(), mix_ratio=mix_ratio)


def test_loader_that_cannot_resume_is_refused_where_it_must():
    class Weighted(Finetune):
        def train_dataloader(self):
            return DataLoader(finetune(), batch_sampler=[[0, 1]])

    with pytest.raises(TypeError, match="`order_seed` needs one `DataLoader`"):
        run(RehearsalCallback(NoRehearsal()), RehearsalDataModule(Weighted(), pool(), order_seed=0))


def test_nothing_is_rehearsed_without_a_callback_and_it_says_so():
    data = RehearsalDataModule(Finetune(), pool())
    run(RehearsalCallback(Uniform()), data)
    with pytest.warns(UserWarning, match=r"rehearses nothing by itself.* Add one"):
        alone, _ = run(pl.Callback(), data)
    assert rehearsed(alone) == [[]] * len(alone.seen)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"finetune": DataLoader(finetune())}, "`finetune` must be a LightningDataModule, got DataLoader"),
        (
            {"finetune": Finetune(), "prior_val": finetune()},
            "`prior_val` must be a loader, got the dataset Tensor",
        ),
    ],
)
def test_loaders_and_datasets_are_not_mixed_up(given, message):
    with pytest.raises(TypeError, match=message):
        RehearsalDataModule(**given, pool=pool())
