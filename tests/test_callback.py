"""The callback: what it is given, what it counts and logs, what it leaves behind."""

import copy
import pickle
from itertools import count

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from lightning_mixcd import (
    CaptureError,
    EveryNSteps,
    HeadProbe,
    Ledger,
    MixCD,
    NoRehearsal,
    Oracle,
    Pool,
    Readout,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    UniformCorrect,
    record_ledger,
)
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.penalties import L2SP
from tests.toys import (
    N_FEATURES,
    N_POOL,
    Finetune,
    Listed,
    LossOnly,
    OnBatchEnd,
    Toy,
    finetune,
    ledger,
    pool,
    prompt_pool,
    rehearsed,
    trainer,
    weights,
)


def fit(callback, module=None, *others, batch_size=8, **settings):
    module = module or Toy()
    loader = DataLoader(finetune(), batch_size)
    trainer(callback, *others, **settings).fit(module, loader)
    return module


# What it is given.


@pytest.mark.parametrize("strategy", [MixCD, "mixcd", None])
def test_strategy_must_be_an_instance(strategy):
    with pytest.raises(TypeError, match=r"`strategy` must be an instance of `Strategy`, got .* MixCD\(\)"):
        RehearsalCallback(strategy, pool=pool())


def test_pool_must_be_given():
    with pytest.raises(ValueError, match=r"`pool` must be given, got none\. Pass RehearsalCallback"):
        fit(RehearsalCallback(Uniform()))


@pytest.mark.parametrize("given", [{"pool": pool()}, {"ledger": ledger()}, {"mix_ratio": 0.5}])
def test_settings_come_from_one_side_only(given):
    data = RehearsalDataModule(Finetune(), pool())
    with pytest.raises(ValueError, match="`pool`, `ledger` and `mix_ratio` must be given once"):
        trainer(RehearsalCallback(Uniform(), **given)).fit(Toy(), datamodule=data)


@pytest.mark.parametrize("mix_ratio", [0, -0.25, 16.01, float("nan"), float("inf")])
def test_mix_ratio_out_of_range_is_refused(mix_ratio):
    with pytest.raises(ValueError, match=r"`mix_ratio` must be above 0 and at most 16 .*NoRehearsal\(\)"):
        fit(RehearsalCallback(Uniform(), pool=pool(), mix_ratio=mix_ratio))


def test_strategy_that_goes_by_the_ledger_needs_one():
    with pytest.raises(ValueError, match="`ledger` must be given, because MixCD goes by what the base"):
        fit(RehearsalCallback(MixCD(), pool=pool()))


def test_streamed_pool_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from pool()

    with pytest.raises(TypeError, match="`pool` must be a map-style dataset with a length, got Stream"):
        RehearsalCallback(Uniform(), pool=Stream())


def test_pool_smaller_than_a_draw_is_refused_before_the_first_step():
    module = Toy()
    with pytest.raises(ValueError, match=r"may draw \(3\), got 8\. Lower `mix_ratio` or give a larger pool"):
        fit(RehearsalCallback(Uniform(), pool=Pool(TensorDataset(*pool()[:3])), mix_ratio=1), module)
    assert module.seen == []


def test_ledger_without_a_correct_sample_is_refused_before_the_first_step():
    module, none_right = Toy(), Ledger.from_arrays([False] * N_POOL, [1.0] * N_POOL)
    for strategy in (MixCD(), UniformCorrect(), Oracle()):
        with pytest.raises(ValueError, match="`ledger` must have a sample that the base model got right"):
            fit(RehearsalCallback(strategy, pool=pool(), ledger=none_right), module)
    assert module.seen == []


def test_ledger_of_another_size_is_refused_before_the_first_step():
    module, short = Toy(), Ledger.from_arrays([True] * (N_POOL - 1), [1.0] * (N_POOL - 1))
    with pytest.raises(ValueError, match=r"`pool` must be the one the ledger was made from.*size: 59 vs 60"):
        fit(RehearsalCallback(MixCD(), pool=pool(), ledger=short), module)
    assert module.seen == []


def test_module_that_fetches_its_own_batches_is_refused():
    class Fetching(Toy):
        def training_step(self, dataloader_iter):
            """Never called."""

    with pytest.raises(TypeError, match=r"`training_step\(self, dataloader_iter\)` fetches its own batches"):
        fit(RehearsalCallback(Uniform(), pool=pool()), Fetching())


def test_trainer_of_the_other_package_is_refused():
    other = pytest.importorskip("pytorch_lightning")

    class Module(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch, batch_idx):
            """Never called."""

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    foreign = other.Trainer(
        callbacks=[RehearsalCallback(Uniform(), pool=pool())],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
    )
    with pytest.raises(TypeError, match=r"needs a `lightning\.pytorch\.Trainer`, got pytorch_lightning\."):
        foreign.fit(Module(), DataLoader(finetune(), 8))


# What it counts. 40 finetune samples.


def test_compute_units_are_three_per_row_trained_on():
    callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.25)
    fit(callback, max_epochs=2)
    assert callback.compute_units == 2 * 3 * (40 + 10)


def test_compute_units_count_every_pass_that_an_optimizer_asks_for():
    class Lbfgs(Toy):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), max_iter=3)

    callback, module = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.25), Lbfgs()
    fit(callback, module, max_steps=2)
    assert len(module.seen) > 2
    assert callback.compute_units == 3 * 10 * len(module.seen)


def test_compute_units_without_rehearsal():
    callback = RehearsalCallback(NoRehearsal(), pool=pool())
    fit(callback)
    assert callback.compute_units == 3 * 40


def test_compute_units_hold_the_ledger_pass(tmp_path):
    folder = tmp_path / "base.ledger"
    for _ in range(2):  # recorded in the first run, read in the second: the price is the same
        callback = RehearsalCallback(UniformCorrect(), pool=pool(), ledger=folder, mix_ratio=0.25)
        module = fit(callback)
        assert callback.compute_units == N_POOL + 3 * (40 + 10)
    assert module.rows_forwarded == 40 + 10


def test_ledger_that_only_serves_to_log_is_no_cost_of_the_strategy(tmp_path):
    callback = RehearsalCallback(Uniform(), pool=pool(), ledger=tmp_path / "l", mix_ratio=0.25)
    fit(callback)
    assert callback.compute_units == 3 * (40 + 10)


def test_compute_units_hold_the_looks_of_the_oracle():
    callback = RehearsalCallback(Oracle(every_n_steps=2), pool=pool(), ledger=ledger(), mix_ratio=0.25)
    module = fit(callback)  # 5 steps: looks after the second and the fourth
    looks = 2 * int(ledger().correct.sum())
    assert callback.compute_units == looks + 3 * (40 + 10)
    assert module.rows_forwarded == looks + 40 + 10


def test_compute_units_do_not_hold_validation():
    callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.25)
    loader = DataLoader(finetune(), 8)
    trainer(callback, num_sanity_val_steps=2).fit(Toy(), loader, DataLoader(pool(), 8))
    assert callback.compute_units == 3 * (40 + 10)


# What it logs.


def test_logs_at_the_interval_of_the_trainer_and_by_these_names():
    logger = Listed()
    strategy = MixCD(partition=ByLabel())
    fit(
        RehearsalCallback(strategy, pool=prompt_pool(), ledger=ledger()),
        logger=logger,
        log_every_n_steps=2,
        max_epochs=2,
    )
    ours = [
        (step, {name for name in row if name.startswith("rehearsal/")})
        for step, row in logger.rows
        if any(name.startswith("rehearsal/") for name in row)
    ]
    bins = {f"{name}/{k:02d}" for name in ("rate", "rows") for k in range(3)}
    names = {"compute_units", "damage_rate", "damaged_share"} | bins
    assert [step for step, _ in ours] == [1, 3, 5, 7, 9]  # Lightning counts from 0: every second of 10
    assert all(found == {f"rehearsal/{name}" for name in names} for _, found in ours)
    assert logger.values("rehearsal/compute_units") == [3 * 10 * n for n in (2, 4, 6, 8, 10)]


@pytest.mark.parametrize("n_bins", [64, 65])
def test_rates_of_very_many_bins_are_not_logged(n_bins):
    many = TensorDataset(torch.zeros(130, 5), torch.zeros(130, dtype=torch.int64))
    record = Ledger.from_arrays([True] * 130, torch.rand(130), label=torch.arange(130) % n_bins)
    logger = Listed()
    callback = RehearsalCallback(MixCD(partition=ByLabel()), pool=many, ledger=record)
    fit(callback, logger=logger, log_every_n_steps=5)
    for name in ("rate", "rows"):
        logged = sum(f"rehearsal/{name}/" in key for key in logger.rows[-1][1])
        assert logged == (64 if n_bins == 64 else 0)


def test_rows_of_each_bin_are_what_a_hand_count_gives():
    logger, module = Listed(), Toy()
    callback = RehearsalCallback(MixCD(partition=ByLabel()), pool=prompt_pool(), ledger=ledger())
    fit(callback, module, logger=logger, log_every_n_steps=2, max_epochs=4)
    counts = np.array([np.bincount(pool().tensors[1][step], minlength=3) for step in rehearsed(module)])
    for k, expected in enumerate(counts.cumsum(axis=0)[1::2].T):
        assert logger.values(f"rehearsal/rows/{k:02d}") == expected.tolist()
    assert counts.sum() == 2 * 20


def test_nothing_is_logged_where_the_trainer_logs_nothing():
    for settings in ({"log_every_n_steps": 0}, {"barebones": True}):
        module = fit(RehearsalCallback(Uniform(), pool=pool()), Unlogged(), **settings)
        assert len(module.seen) == 5


class Unlogged(Toy):
    """`Trainer(barebones=True)` warns of modules that log."""

    def log(self, *args, **kwargs):
        pass


@pytest.mark.parametrize("accumulate", [1, 2])
def test_share_of_damaged_rows_is_what_a_hand_count_gives(accumulate):
    before, wrong_now, shares, steps = ledger().correct, [], [], [0]

    def count(_trainer, module, outputs, batch):
        (x, y), logits = batch, outputs["logits"]
        index = (x[:, -1] - 1000).long()
        wrong_now.extend(
            bool(before[i]) and int(logits[row].argmax()) != int(y[row])
            for row, i in enumerate(index.tolist())
            if i >= 0
        )
        steps.append(_trainer.global_step)
        if steps[-1] > steps[-2] and steps[-1] % 2 == 0:
            shares.append(sum(wrong_now) / len(wrong_now))
            wrong_now.clear()

    logger = Listed()
    callback = RehearsalCallback(Uniform(), pool=prompt_pool(), ledger=ledger(), mix_ratio=1)
    settings = {"log_every_n_steps": 2, "max_epochs": 4, "accumulate_grad_batches": accumulate}
    fit(callback, Toy(lr=0.3), OnBatchEnd(count), logger=logger, **settings)
    assert logger.values("rehearsal/damaged_share") == pytest.approx(shares)
    assert max(shares) > 0


def test_manual_optimization_logs_at_the_interval_too():
    logger = Listed()
    module = fit(
        RehearsalCallback(MixCD(), pool=pool(), ledger=ledger()),
        Manual(optimizer_steps_per_batch=3),
        logger=logger,
        log_every_n_steps=3,
        max_epochs=2,
    )
    assert len(module.seen) == 10
    assert logger.values("rehearsal/compute_units") == [3 * 10 * n for n in (3, 6, 9)]


def test_manual_optimization_that_steps_at_every_second_batch_logs_too():
    class Every2(Manual):
        def training_step(self, batch, batch_idx):
            self.optimizer_steps_per_batch = (batch_idx + 1) % 2
            return super().training_step(batch, batch_idx)

    logger = Listed()
    callback = RehearsalCallback(MixCD(), pool=pool(), ledger=ledger())
    fit(callback, Every2(), logger=logger, log_every_n_steps=2, max_epochs=2)
    assert logger.values("rehearsal/compute_units") == [3 * 10 * n for n in (2, 4, 6, 8, 10)]


class Manual(Toy):
    def __init__(self, *, optimizer_steps_per_batch=1):
        super().__init__()
        self.automatic_optimization = False
        self.optimizer_steps_per_batch = optimizer_steps_per_batch

    def training_step(self, batch, batch_idx):
        given = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(given["loss"])
        for _ in range(self.optimizer_steps_per_batch):
            optimizer.step()
        return given


# What it leaves behind.


@pytest.mark.parametrize("make", [MixCD, lambda: Oracle(every_n_steps=2)])
def test_two_fits_with_one_callback_are_two_fresh_runs(make):
    callback = RehearsalCallback(make(), pool=pool(), ledger=ledger(), mix_ratio=0.5)
    first = fit(callback)
    units, rates = callback.compute_units, callback.strategy.signal().clone()
    second = fit(callback)
    assert rehearsed(first) == rehearsed(second)
    assert torch.equal(weights(first), weights(second))
    assert callback.compute_units == units
    assert torch.equal(callback.strategy.signal(), rates)


def test_pass_of_a_step_that_failed_is_not_counted_in_the_next_fit():
    def fail(*_):
        raise RuntimeError("the user's own")

    module, callback = Toy(), RehearsalCallback(Uniform(), pool=pool())
    module.on_before_optimizer_step = fail
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(callback, module)
    fit(callback)
    assert callback.compute_units == 3 * (40 + 10)


def test_module_is_left_as_it_was():
    module = Toy()
    hooks, attributes = copy.copy(module.net._forward_hooks), set(module.__dict__)
    readout = Readout(module="net")
    fit(RehearsalCallback(MixCD(), pool=pool(), ledger=ledger(), readout=readout), module)
    assert module.net._forward_hooks == hooks
    assert set(module.__dict__) - attributes == set(
        set(fit(NoRehearsalCallback(), Toy()).__dict__) - attributes
    )


class NoRehearsalCallback(pl.Callback):
    """What Lightning itself leaves in a module."""


def test_exception_in_a_step_puts_the_hook_back():
    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("the user's own")
            return super().training_step(batch, batch_idx)

    module = Failing()
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(RehearsalCallback(Uniform(), pool=pool()), module)
    assert "on_after_batch_transfer" not in module.__dict__
    assert len(module.on_after_batch_transfer([torch.zeros(2, 5)], 0)[0]) == 2


def test_checkpoint_saved_after_the_end_holds_the_state(tmp_path):
    callback = RehearsalCallback(MixCD(), pool=prompt_pool(), ledger=ledger())
    run = trainer(callback)
    run.fit(Toy(), DataLoader(finetune(), 8))
    run.save_checkpoint(tmp_path / "end.ckpt")
    state = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]["RehearsalCallback"]
    assert state["compute_units"] == 3 * 50
    assert torch.equal(state["strategy"]["seen"], callback.strategy.estimator.seen)
    assert float(state["strategy"]["seen"].sum()) > 0


# Lightning says so whenever the callback is there at the first fit.
@pytest.mark.filterwarnings("ignore:.*was called without a model:UserWarning")
@pytest.mark.filterwarnings("ignore:.*no last checkpoint available:UserWarning")
def test_checkpoint_saved_on_an_exception_holds_the_state(tmp_path):
    class Failing(Toy):
        def training_step(self, batch, batch_idx):
            if batch_idx == 3:
                raise RuntimeError("the user's own")
            return super().training_step(batch, batch_idx)

    keep = pl.callbacks.OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="the user's own"):
        fit(RehearsalCallback(Uniform(), pool=pool()), Failing(), keep, enable_checkpointing=True)
    state = torch.load(tmp_path / "on_exception.ckpt", weights_only=True)["callbacks"]["RehearsalCallback"]
    assert state["compute_units"] == 3 * 3 * 10


def test_validating_an_earlier_checkpoint_leaves_the_finished_run_alone(tmp_path):
    def save(run, *_):
        if run.global_step == 2:
            run.save_checkpoint(tmp_path / "second.ckpt")

    callback = RehearsalCallback(MixCD(), pool=pool(), ledger=ledger())
    run, module = trainer(callback, OnBatchEnd(save)), Toy()
    run.fit(module, DataLoader(finetune(), 8))
    places = callback.state_dict()["places"].tolist()
    found = run.validate(module, DataLoader(pool(), 8), ckpt_path=tmp_path / "second.ckpt", verbose=False)
    assert found[0]["val_loss"] > 0
    assert callback.compute_units == 3 * 50
    assert callback.state_dict()["places"].tolist() == places


def test_schedule_decides_at_which_steps():
    callback = RehearsalCallback(Uniform(), pool=pool(), schedule=EveryNSteps(2, first=1), mix_ratio=0.5)
    assert [len(rows) for rows in rehearsed(fit(callback))] == [0, 4, 0, 4, 0]


# Budget and weight.


def test_budget_ends_the_run_with_the_step_that_reaches_it():
    callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5, max_compute_units=100)
    module = Toy()
    run = trainer(callback, max_epochs=50)
    run.fit(module, DataLoader(finetune(), 8))
    # 8 + 4 rows of 3 units in each step: 36, 72, 108.
    assert run.global_step == 3
    assert callback.compute_units == 108
    assert callback.exhausted


def test_run_that_its_budget_ended_makes_no_step_when_it_is_started_again(tmp_path):
    module, path = Toy(), tmp_path / "end.ckpt"
    for most, steps in ((100, 3), (100, 3), (100, 3), (140, 4)):
        callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5, max_compute_units=most)
        run = trainer(callback, max_epochs=50)
        run.fit(module, DataLoader(finetune(), 8), ckpt_path=path if path.exists() else None)
        run.save_checkpoint(path)
        assert (run.global_step, callback.compute_units, callback.exhausted) == (steps, 36 * steps, True)
    assert len(module.seen) == 4


@pytest.mark.parametrize(("most", "stopped_at"), [(100, None), (None, 3)])
def test_last_entry_of_a_run_that_is_stopped_is_of_its_last_step(most, stopped_at):
    def stop(run, *_):
        run.should_stop = run.should_stop or run.global_step == stopped_at

    log = Listed()
    callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5, max_compute_units=most)
    run = trainer(OnBatchEnd(stop), callback, max_epochs=50, logger=log, log_every_n_steps=2)
    run.fit(Toy(), DataLoader(finetune(), 8))
    assert log.values("rehearsal/compute_units") == [72, 108]


@pytest.mark.filterwarnings("ignore:train_dataloader yielded None")
def test_batch_that_is_none_leaves_the_log_in_step():
    numbers = count()

    def none_once(samples):
        return None if next(numbers) == 1 else default_collate(samples)

    log = Listed()
    callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5)
    run = trainer(callback, max_epochs=1, logger=log, log_every_n_steps=2)
    run.fit(Toy(), DataLoader(finetune(), 8, collate_fn=none_once))
    assert log.values("rehearsal/compute_units") == [36, 108]


@pytest.mark.parametrize("strategy", [MixCD(), HeadProbe()])
def test_copies_and_pickles_are_as_before_a_fit_but_for_what_was_spent(strategy, tmp_path):
    def used(callback, *others):
        module, run = Toy(), trainer(callback, *others, max_epochs=2)
        run.fit(module, DataLoader(finetune(), 8))
        assert others or pickle.dumps(run)
        return weights(module)

    copies = []
    callback = RehearsalCallback(strategy, pool=pool(), ledger=tmp_path / "l", mix_ratio=0.5)
    expected = used(copy.deepcopy(callback))
    used(callback, OnBatchEnd(lambda *_: copies.append(copy.deepcopy(callback))))
    assert [copied.compute_units for copied in copies] == [60 + 36 * step for step in range(1, 11)]
    for copied in (copies[3], copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):  # noqa: S301
        assert torch.equal(used(copied), expected)


def test_budget_does_not_end_amid_an_accumulation():
    callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5, max_compute_units=100)
    run = trainer(callback, max_epochs=50, accumulate_grad_batches=2)
    run.fit(Toy(), DataLoader(finetune(), 8))
    # Three batches of 36 units reach it; the fourth ends the step.
    assert (run.global_step, callback.compute_units) == (2, 144)


def test_ledger_counts_towards_the_budget(tmp_path):
    record_ledger(Toy(), pool(), tmp_path / "ledger")  # 60 forwards
    callback = RehearsalCallback(
        UniformCorrect(), pool=pool(), ledger=tmp_path / "ledger", max_compute_units=61
    )
    run = trainer(callback, max_epochs=50)
    run.fit(Toy(), DataLoader(finetune(), 8))
    assert run.global_step == 1


def test_budget_that_is_not_reached_changes_nothing():
    runs = []
    for most in (None, 10**9):
        callback = RehearsalCallback(Uniform(), pool=pool(), max_compute_units=most)
        module = Toy()
        trainer(callback, max_epochs=2).fit(module, DataLoader(finetune(), 8))
        assert not callback.exhausted
        runs.append(weights(module))
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("max_compute_units", 0),
        ("rehearsal_weight", -1.0),
        ("rehearsal_weight", float("nan")),
        ("rehearsal_weight", float("inf")),
    ],
)
def test_numbers_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` must be"):
        RehearsalCallback(Uniform(), pool=pool(), **{argument: value})


def test_penalties_must_be_penalties():
    with pytest.raises(TypeError, match="`penalties` must be instances of `Penalty`, got 3"):
        RehearsalCallback(Uniform(), pool=pool(), penalties=[3])
    with pytest.raises(TypeError, match=r"`penalties` must be a list, got .*L2SP"):
        RehearsalCallback(Uniform(), pool=pool(), penalties=L2SP())


def test_schedule_must_be_a_function():
    with pytest.raises(TypeError, match="`schedule` must be a function of the step, got 5"):
        RehearsalCallback(Uniform(), pool=pool(), schedule=5)


class Weighing(Toy):
    """Weighs its last rows by itself, as the callback should."""

    def __init__(self, weight, rehearsed):
        super().__init__()
        self.row_weight, self.rehearsed = weight, rehearsed

    def training_step(self, batch, batch_idx):
        x, y = self.features_and_labels(batch)
        losses = cross_entropy(self.net(x[:, :N_FEATURES]), y, reduction="none")
        losses = torch.cat([losses[: -self.rehearsed], self.row_weight * losses[-self.rehearsed :]])
        return losses.mean()


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_rehearsed_rows_are_weighed(weight):
    ours, theirs = Toy(), Weighing(weight, 4)
    for module, given in ((ours, weight), (theirs, 1.0)):
        callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5, rehearsal_weight=given)
        trainer(callback, max_epochs=2).fit(module, DataLoader(finetune(), 8))
    torch.testing.assert_close(weights(ours), weights(theirs))


def test_a_weight_needs_losses_of_single_rows():
    callback = RehearsalCallback(Uniform(), pool=pool(), rehearsal_weight=2.0)
    with pytest.raises(CaptureError, match="cannot be read"):
        trainer(callback, max_epochs=1).fit(LossOnly(), DataLoader(finetune(), 8))
