"""One fit: how many rows, how they reach the device, what is learnt from them, when the ledger is checked."""

import itertools
from fractions import Fraction

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixcd import (
    CaptureError,
    DecayedBeta,
    EveryNSteps,
    Ledger,
    LedgerError,
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
from lightning_mixcd.capture import Reading
from lightning_mixcd.learner import Learner
from lightning_mixcd.ledger_callback import IndexedDataset, LedgerCallback
from lightning_mixcd.partitions import ByLossQuantile, Shuffled, Single
from lightning_mixcd.strategies import HeadProbe, ProbeMatching, ScreenHighestLoss
from tests.toys import (
    Finetune,
    OnBatchEnd,
    Toy,
    base_state,
    finetune,
    finetuned,
    flat,
    ledger,
    network,
    pool,
    prompt_pool,
    rehearsed,
    task,
    trainer,
    weights,
)


def fit(callback, module=None, *others, loader=None, **settings):
    module = module or Toy()
    trainer(callback, *others, **settings).fit(module, loader or DataLoader(finetune(), 8))
    return module


def sizes(steps):
    return [len(step) for step in steps]


# How many rows.


@pytest.mark.parametrize("mix_ratio", [1 / 64, 0.1, 0.25, 1 / 3, 0.7, 1, 2.5, 16])
def test_rows_so_far_are_always_the_floor_of_what_is_due(mix_ratio):
    module = fit(
        RehearsalCallback(Uniform(), pool=task(400, seed=3, first_id=1000), mix_ratio=mix_ratio),
        loader=DataLoader(finetune(), 7),  # the last batch of an epoch has 5
        max_epochs=2,
    )
    assert sizes(finetuned(module)) == [7, 7, 7, 7, 7, 5] * 2
    given = finetune_rows = 0
    for fine, pool_rows in zip(sizes(finetuned(module)), sizes(rehearsed(module)), strict=True):
        finetune_rows, given = finetune_rows + fine, given + pool_rows
        assert given == int(Fraction(str(mix_ratio)) * finetune_rows)


def test_finetune_rows_come_first_and_are_the_users():
    module = fit(RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5))
    plain = Toy()
    trainer().fit(plain, DataLoader(finetune(), 8))
    assert finetuned(module) == plain.seen
    assert all(
        step == fine + [i + 1000 for i in rows]
        for step, fine, rows in zip(module.seen, finetuned(module), rehearsed(module), strict=True)
    )


def test_batches_that_vary_in_size_get_their_share():
    batches = [[0, 1, 2], [3], list(range(4, 24)), [24, 25], list(range(26, 40))]
    module = fit(
        RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5),
        loader=DataLoader(finetune(), batch_sampler=batches),
    )
    assert finetuned(module) == batches
    assert sizes(rehearsed(module)) == [1, 1, 10, 1, 7]  # floors of 1.5, 2, 12, 13, 20
    drawn = flat(rehearsed(module))
    assert len(set(drawn)) == len(drawn)  # the pool of 60 is not used up


def test_every_pool_sample_comes_before_any_comes_again():
    module = fit(
        RehearsalCallback(Uniform(), pool=task(64, seed=3, first_id=1000), mix_ratio=1), max_epochs=3
    )
    drawn = flat(rehearsed(module))
    assert sorted(drawn[:64]) == list(range(64))
    assert len(set(drawn[64:])) == len(drawn[64:]) == 56


@pytest.mark.parametrize("seeds", [(0, 1)])
def test_seed_decides_the_draws(seeds):
    one, two = (rehearsed(fit(RehearsalCallback(Uniform(), pool=pool(), seed=seed))) for seed in seeds)
    assert one != two


def test_schedule_counts_optimizer_steps():
    schedule = EveryNSteps(2)
    module = fit(
        RehearsalCallback(Uniform(), pool=pool(), schedule=schedule, mix_ratio=0.5), accumulate_grad_batches=2
    )
    assert sizes(rehearsed(module)) == [4, 4, 0, 0, 4]


# What is learnt.


@pytest.mark.parametrize(("accumulate", "n_batches"), [(1, 5), (3, 5), (3, 6), (4, 5)])
def test_counts_fade_once_per_optimizer_step(accumulate, n_batches):
    seen = []  # after each batch: optimizer steps so far, rows, damaged rows
    before = ledger().correct

    def count(run, _module, outputs, batch):
        x, y = batch
        index = (x[:, -1] - 1000).long()
        rows = [row for row, i in enumerate(index.tolist()) if i >= 0]
        wrong = [bool(before[index[r]]) and int(outputs["logits"][r].argmax()) != int(y[r]) for r in rows]
        place = run.fit_loop.epoch_loop.batch_idx
        begun = 0 if run.global_step > (seen[-1][3] if seen else 0) else (place % accumulate + 1)
        step = run.global_step + begun / accumulate
        seen.append((step, len(rows), sum(wrong), run.global_step))

    estimator = DecayedBeta(halflife_steps=2.0)
    fit(
        RehearsalCallback(
            MixCD(partition=Single(), estimator=estimator, floor=1.0),
            pool=prompt_pool(),
            ledger=ledger(),
            mix_ratio=1,
        ),
        Toy(lr=0.3),
        OnBatchEnd(count),
        accumulate_grad_batches=accumulate,
        limit_train_batches=n_batches,
        max_epochs=4,
        loader=DataLoader(task(48, seed=2), 8),
    )
    now = seen[-1][0]
    faded = [0.5 ** ((now - step) / 2.0) for step, *_ in seen]
    assert float(estimator.seen) == pytest.approx(
        sum(f * s[1] for f, s in zip(faded, seen, strict=True)), rel=1e-5
    )
    assert float(estimator.damaged) == pytest.approx(
        sum(f * s[2] for f, s in zip(faded, seen, strict=True)), rel=1e-5
    )
    assert float(estimator.damaged) > 0


def test_steps_without_rehearsal_fade_too():
    estimator = DecayedBeta(halflife_steps=1.0)
    strategy = MixCD(partition=Single(), estimator=estimator)
    schedule = EveryNSteps(3)
    fit(
        RehearsalCallback(strategy, pool=prompt_pool(), ledger=ledger(), schedule=schedule, mix_ratio=1),
        limit_train_batches=4,
    )
    assert float(estimator.seen) == 8 + 8 * 0.5**3


@pytest.mark.parametrize(
    ("settings", "batch"),
    [
        ({"schedule": EveryNSteps(3)}, 1),
        ({"mix_ratio": 1 / 16}, 2),
        ({"accumulate": 3}, 1),
        ({"accumulate": 3}, 4),
    ],
)
def test_fading_goes_on_where_a_checkpoint_fell_between_updates(settings, batch, tmp_path):
    # Nothing is trained, so that an accumulated gradient, which no checkpoint holds, is not missed.
    settings = {"mix_ratio": 1, "schedule": None, "accumulate": 1, **settings}

    def run(*callbacks, ckpt_path=None):
        estimator = DecayedBeta(halflife_steps=1.5)
        callback = RehearsalCallback(
            MixCD(partition=Single(), estimator=estimator), schedule=settings["schedule"]
        )
        data = RehearsalDataModule(
            Finetune(), pool(), ledger=ledger(), mix_ratio=settings["mix_ratio"], order_seed=0
        )
        trainer(callback, *callbacks, max_epochs=3, accumulate_grad_batches=settings["accumulate"]).fit(
            Toy(lr=0.0), datamodule=data, ckpt_path=ckpt_path
        )
        return float(estimator.seen)

    def save(run, *_):
        if run.fit_loop.epoch_loop.total_batch_idx == batch:
            run.save_checkpoint(tmp_path / "between.ckpt")

    assert run(ckpt_path=None) == run(OnBatchEnd(save))
    assert run(ckpt_path=tmp_path / "between.ckpt") == run()


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`:UserWarning")  # the case itself
def test_skipped_batch_is_not_learnt_from():
    class Skipping(Toy):
        def training_step(self, batch, batch_idx):
            given = super().training_step(batch, batch_idx)
            return None if batch_idx == 1 else given

    estimator = DecayedBeta(halflife_steps=float("inf"))
    strategy = MixCD(partition=Single(), estimator=estimator)
    fit(RehearsalCallback(strategy, pool=prompt_pool(), ledger=ledger(), mix_ratio=1), Skipping())
    assert float(estimator.seen) == 4 * 8


def lone_learner():
    return Learner(Uniform(), device=torch.device("cpu"), total=torch.clone, everyones=lambda own: [own, own])


def give_lesson(learner, right):
    index = torch.arange(len(right))
    learner.add({"index": index, "base_correct": index >= 0}, Reading(torch.tensor(right, dtype=torch.bool)))
    learner.learn()


@pytest.mark.parametrize(("rank", "share"), [(0, 0.25), (1, float("nan"))])
def test_first_process_alone_goes_on_with_what_all_have_counted(rank, share):
    learner = lone_learner()
    give_lesson(learner, [True, True, True, False])
    state = learner.state_dict(together=True)
    give_lesson(learner, [False, False])
    learner.load_state_dict(state, rank=rank, size=2)
    assert learner.state_dict(together=True)["run"].tolist() == [1 - rank, 4 * (1 - rank)]
    assert float(learner.damaged_share()) == pytest.approx(share, nan_ok=True)


def test_share_of_damaged_rows_stays_until_the_next_lesson_and_over_a_checkpoint():
    learner, resumed = lone_learner(), lone_learner()
    assert learner.damaged_share() is None
    give_lesson(learner, [True, True, True, False])
    assert [float(learner.damaged_share()) for _ in range(2)] == [0.25, 0.25]
    resumed.load_state_dict(learner.state_dict(together=True), rank=0, size=2)
    for each in (learner, resumed):
        assert float(each.damaged_share()) == 0.25
        give_lesson(each, [True, False])
        assert float(each.damaged_share()) == 0.5


def test_share_stays_while_nothing_is_rehearsed():
    learner = lone_learner()
    give_lesson(learner, [])
    assert learner.damaged_share().isnan()
    give_lesson(learner, [True, True, True, False])
    assert float(learner.damaged_share()) == 0.25
    give_lesson(learner, [])
    assert float(learner.damaged_share()) == 0.25


def test_each_row_of_a_run_counts_once_whenever_it_is_reported_and_resumed():
    learner = lone_learner()
    for right in ([True] * 5, [False], [], [False, True]):
        give_lesson(learner, right)
        learner.damaged_share()
        give_lesson(learner, right)
        resumed = lone_learner()
        resumed.load_state_dict(learner.state_dict(together=True), rank=0, size=1)
        learner = resumed
    learner.add({"index": torch.arange(1)}, Reading(torch.tensor([False])))
    learner.learn()  # it is not known what the base model had right
    assert learner.state_dict(together=True)["run"].tolist() == [2 * 2, 2 * 8]


def test_rows_of_a_run_are_not_known_where_an_earlier_version_did_not_count_them():
    learner = lone_learner()
    give_lesson(learner, [True])
    earlier = learner.state_dict(together=True)
    del earlier["run"]
    learner.load_state_dict(earlier, rank=0, size=1)
    give_lesson(learner, [True])
    assert float(learner.damaged_share()) == 0
    assert learner.state_dict(together=True)["run"] is None


class Noting(MixCD):
    """Keeps what it is told, and what each round goes by."""

    def __init__(self):
        super().__init__(partition=Single(), estimator=DecayedBeta(halflife_steps=float("inf")))
        self.told, self.rounds = [], []

    def update(self, tally, *, steps):
        super().update(tally, steps=steps)
        self.told.append((float(tally[1].sum()), steps))

    def select_round(self, n_draws, n, *, signal, generator):
        self.rounds.append((n_draws, float(signal)))
        return super().select_round(n_draws, n, signal=signal, generator=generator)


@pytest.mark.parametrize(("accumulate", "mix_ratio", "rows"), [(1, 1, 8), (1, 0.5, 4), (2, 1, 8)])
def test_lessons_come_after_every_half_lag_of_batches(accumulate, mix_ratio, rows):
    strategy = Noting()
    fit(
        RehearsalCallback(strategy, pool=Pool(pool(), lag=8), ledger=ledger(), mix_ratio=mix_ratio),
        Toy(lr=0.0),
        accumulate_grad_batches=accumulate,
        limit_train_batches=4,
        max_epochs=6,
    )
    assert strategy.told == [(4 * rows, 4 / accumulate)] * 6
    # A round of four goes by the lessons that ended before the draw eight before it was begun. As nothing is
    # trained, the model has right what the base model had, and the prior counts one damaged row.
    lessons = [0, 0, 0, 1, 2, 3]
    expected = [(4, 1 / (2 + 4 * rows * n)) for n in lessons]
    assert [n for n, _ in strategy.rounds] == [4] * 6
    assert [rate for _, rate in strategy.rounds] == pytest.approx([rate for _, rate in expected])


def test_oracle_looks_on_time_where_steps_come_in_pairs():
    class TwoOptimizers(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            given = super().training_step(batch, batch_idx)
            self.manual_backward(given["loss"])
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()
            return given

        def configure_optimizers(self):
            return [torch.optim.SGD([p], 0.1) for p in (self.net[0].weight, self.net[3].weight)]

    looks = []

    class Counting(Oracle):
        def refresh(self, probe):
            looks.append(run.global_step)
            super().refresh(probe)

    readout = Readout(step=lambda module, batch: {"logits": module.net(batch[0][:, :-1])})
    callback = RehearsalCallback(Counting(every_n_steps=3), pool=pool(), ledger=ledger(), readout=readout)
    run = trainer(callback)
    run.fit(TwoOptimizers(), DataLoader(finetune(), 8))
    assert looks == [4, 6, 10]  # the first even steps at or after 3, 6, 9


# Manual optimization.


class Manual(Toy):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        given = super().training_step(batch, batch_idx)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(given["loss"])
        optimizer.step()
        return given


def test_manual_optimization_is_the_same_run():
    runs = [
        fit(RehearsalCallback(MixCD(), pool=pool(), ledger=ledger()), module) for module in (Manual(), Toy())
    ]
    assert runs[0].seen == runs[1].seen
    assert torch.equal(*map(weights, runs))


def test_manual_optimization_cannot_be_looked_at_without_a_step(tmp_path):
    remedy = r"manual optimization cannot be run without training.*Readout\(step="
    for strategy, record in ((Oracle(), ledger()), (MixCD(), tmp_path / "new.ledger")):
        module = Manual()
        with pytest.raises(CaptureError, match=remedy):
            fit(RehearsalCallback(strategy, pool=pool(), ledger=record), module)
        assert module.seen == []


def test_manual_optimization_records_its_ledger_through_a_step(tmp_path):
    readout = Readout(step=lambda module, batch: {"logits": module.net(batch[0][:, :-1])})
    fit(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l", readout=readout), Manual())
    assert Ledger.open(tmp_path / "l").correct.tolist() == ledger().correct.tolist()


# How rows reach the device.


class Hooked(Toy):
    """Scales on the host, shifts on the device, and tells what each hook was given."""

    def __init__(self):
        super().__init__()
        self.given = {"before": [], "transfer": [], "after": []}

    def on_before_batch_transfer(self, batch, dataloader_idx):
        self.given["before"].append(len(batch[0]))
        x, y = batch
        return torch.cat([x[:, :-1] * 2, x[:, -1:]], 1), y

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.given["transfer"].append(len(batch[0]))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch, dataloader_idx):
        self.given["after"].append(len(batch[0]))
        x, y = batch
        return torch.cat([x[:, :-1] - 1, x[:, -1:]], 1), y


class HookedData(Finetune):
    """The same hooks, in the datamodule."""

    def __init__(self):
        super().__init__()
        self.given = {"before": [], "transfer": [], "after": []}

    on_before_batch_transfer = Hooked.on_before_batch_transfer
    on_after_batch_transfer = Hooked.on_after_batch_transfer

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        self.given["transfer"].append(len(batch[0]))
        return super().transfer_batch_to_device(batch, device, dataloader_idx)


class Keeping(pl.Callback):
    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append(batch)


@pytest.mark.parametrize("where", ["module", "datamodule", "wrapped datamodule"])
def test_transfer_hooks_run_for_pool_rows_as_for_finetune_rows(where):
    keeping, hooked = Keeping(), Hooked() if where == "module" else HookedData()
    module = hooked if where == "module" else Toy()
    data = hooked
    if where == "wrapped datamodule":
        callback = RehearsalCallback(Uniform())
        data = RehearsalDataModule(hooked, pool(), mix_ratio=0.5)
    else:
        callback = RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5)
    if where == "module":
        trainer(callback, keeping).fit(module, DataLoader(finetune(), 8))
    else:
        trainer(callback, keeping).fit(module, datamodule=data)
    assert hooked.given == {"before": [8, 4] * 5, "transfer": [8, 4] * 5, "after": [12] * 5}
    for x, y in keeping.batches:
        for row, label in zip(x, y, strict=True):
            number = int(row[-1])
            features, expected = (pool() if number >= 1000 else finetune())[number % 1000]
            assert torch.equal(row[:-1], features[:-1] * 2 - 1)
            assert label == expected


def some_of(batch):
    x, y = batch
    return x[y != 0], y[y != 0]


class LosingBefore(Toy):
    def on_before_batch_transfer(self, batch, dataloader_idx):
        return some_of(batch)


class LosingAfter(Toy):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return some_of(batch)


class Doubling(Toy):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [torch.cat([part, part]) for part in batch]


class Apart(Toy):
    def rehearsal_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)


class LosingApart(Apart, LosingAfter):
    """Loses rows of a batch of their own."""


TOLD_BY_PLACE = [
    {"strategy": MixCD(), "ledger": ledger()},
    {"strategy": ScreenHighestLoss()},
    {"strategy": MixCD(), "ledger": "base.ledger"},
]
WEIGHED = {"strategy": Uniform(), "rehearsal_weight": 2.0}  # a batch of their own is, as a whole


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        *itertools.product([LosingBefore, LosingAfter, Doubling], [*TOLD_BY_PLACE, WEIGHED]),
        *itertools.product([LosingApart], TOLD_BY_PLACE),
    ],
)
def test_hooks_that_lose_rows_are_refused_where_rows_are_told_by_their_place(
    module, settings, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    callback = RehearsalCallback(**{"pool": pool(), "mix_ratio": 1, **settings})
    with pytest.raises(
        CaptureError, match=r"Batch hooks must keep every row .* got \d+ rows for \d+\. Filter"
    ):
        trainer(callback, max_steps=3).fit(module(), DataLoader(finetune(), 8))


def test_hooks_may_make_views_where_nothing_is_read():
    module = Doubling()
    trainer(RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5)).fit(module, DataLoader(finetune(), 8))
    assert [len(step) for step in module.seen] == [24] * 5


def test_random_host_transform_draws_for_finetune_rows_as_without_rehearsal():
    class Noisy(Toy):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            x, y = batch
            return torch.cat([x[:, :-1] + torch.randn(len(x), 4), x[:, -1:]], 1), y

    noise = []
    for callbacks in ([], [RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5)]):
        pl.seed_everything(3, verbose=False)
        keeping = Keeping()
        trainer(*callbacks, keeping).fit(Noisy(), DataLoader(finetune(), 8))
        noise.append([x[:8, :-1] for x, _ in keeping.batches])
    assert torch.equal(torch.stack(noise[0]), torch.stack(noise[1]))


def test_ledger_recorded_here_went_through_the_hooks(tmp_path):
    fit(RehearsalCallback(UniformCorrect(), pool=pool(), ledger=tmp_path / "l"), Hooked())
    x, y = pool().tensors
    net = network()
    net.load_state_dict(base_state())
    expected = net(x[:, :-1] * 2 - 1).argmax(1) == y
    assert Ledger.open(tmp_path / "l").correct.tolist() == expected.tolist()
    assert expected.tolist() != ledger().correct.tolist()


def test_rehearsing_while_another_ledger_is_recorded(tmp_path):
    # Three tasks in a row: the second one's ledger rides along while the first is rehearsed.
    data = IndexedDataset(finetune())
    module = Toy()
    trainer(
        LedgerCallback(tmp_path / "second.ledger", data),
        RehearsalCallback(MixCD(), pool=pool(), ledger=ledger()),
        max_epochs=2,
    ).fit(module, data.loader(batch_size=8))
    assert sizes(rehearsed(module)) == [2] * 10
    assert Ledger.open(tmp_path / "second.ledger").size == 40
    assert not {"on_before_batch_transfer", "on_after_batch_transfer"} & set(module.__dict__)


# When the ledger is recorded and checked.


class BuiltInSetup(Toy):
    """Builds its layers where Lightning suggests it for heads that depend on the data."""

    def __init__(self):
        super().__init__()
        del self.net

    def setup(self, stage):
        self.net = network()
        self.net.load_state_dict(base_state())


class BuiltInConfigureModel(BuiltInSetup):
    def setup(self, stage):
        pass

    def configure_model(self):
        BuiltInSetup.setup(self, "fit")


@pytest.mark.parametrize("kind", [BuiltInSetup, BuiltInConfigureModel])
def test_module_that_builds_its_layers_late(kind, tmp_path):
    recorded = fit(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l"), kind())
    read = fit(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l"), kind())
    usual = fit(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l"))
    assert recorded.seen == read.seen == usual.seen
    named = fit(
        RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l", readout=Readout(module="net")), kind()
    )
    assert named.seen == usual.seen
    other = kind()
    other.setup = lambda stage: None
    other.configure_model = lambda: setattr(other, "net", network())
    with pytest.raises(LedgerError, match="must be the base model the ledger was made with"):
        fit(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l"), other)


def test_module_whose_layers_take_their_size_from_the_first_batch():
    class Lazy(Toy):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(3))

    module = Lazy()
    fit(RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5), module)
    assert [len(step) for step in rehearsed(module)] == [4] * 5


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_precision_of_training_is_that_of_the_recording(precision, tmp_path):
    # bfloat16 weights and the sample numbers in the features do not go together; double ones do.
    by_hand = tmp_path / "by_hand"
    record_ledger(Toy(), pool(), by_hand)
    modules = []
    for path in (tmp_path / "recorded here", tmp_path / "recorded here", by_hand):
        module = fit(
            RehearsalCallback(MixCD(), pool=pool(), ledger=path, mix_ratio=1), Toy(), precision=precision
        )
        assert sizes(module.seen) == [16] * 5
        modules.append(module)
    assert {p.dtype for p in module.parameters()} == {
        {"64-true": torch.float64, "bf16-true": torch.bfloat16, "bf16-mixed": torch.float32}[precision]
    }
    assert torch.equal(weights(modules[0]), weights(modules[1]))
    if precision == "bf16-mixed":
        x, y = pool().tensors
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            expected = nn.functional.cross_entropy(Toy().net(x[:, :-1]), y, reduction="none")
        assert Ledger.open(tmp_path / "recorded here").loss.tolist() == pytest.approx(
            expected.float().tolist(), rel=1e-3, abs=1e-5
        )
        assert Ledger.open(by_hand).loss.tolist() != pytest.approx(
            expected.float().tolist(), rel=1e-3, abs=1e-5
        )
    if precision == "64-true":
        ours = Ledger.open(tmp_path / "recorded here")
        double = network().double()
        double.load_state_dict(base_state())
        x, y = pool().tensors
        logits = double(x[:, :-1].double())
        assert ours.correct.tolist() == (logits.argmax(1) == y).tolist()


def test_ledger_of_another_base_model_is_refused_before_the_first_step(tmp_path):
    record_ledger(Toy(), pool(), tmp_path / "l")
    other = Toy()
    nn.init.zeros_(other.net[0].bias)
    with pytest.raises(LedgerError, match=r"got same architecture, other weights: 1 of 4 tensors differ"):
        fit(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l"), other)
    assert other.seen == []
    trusted = Ledger.open(tmp_path / "l", check_model=False)
    fit(RehearsalCallback(MixCD(), pool=pool(), ledger=trusted), other)
    assert len(other.seen) == 5


def test_ledger_of_another_pool_is_refused_before_the_first_step(tmp_path):
    record_ledger(Toy(), pool(), tmp_path / "l")
    module, x, y = Toy(), *pool().tensors
    with pytest.raises(LedgerError, match=r"`pool` must be the one the ledger was made from.*content"):
        fit(
            RehearsalCallback(MixCD(), pool=TensorDataset(x.flip(0), y.flip(0)), ledger=tmp_path / "l"),
            module,
        )
    assert module.seen == []


def test_resumed_run_may_start_from_any_weights_but_not_record(tmp_path):
    run = trainer(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l"))
    run.fit(Toy(), DataLoader(finetune(), 8))
    run.save_checkpoint(tmp_path / "end.ckpt")
    for module in (Toy(), Toy(base=False)):
        callback = RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l")
        trainer(callback, max_epochs=2).fit(
            module, DataLoader(finetune(), 8), ckpt_path=tmp_path / "end.ckpt"
        )
        assert len(module.seen) == 5
    with pytest.raises(LedgerError, match=r"must be recorded already, because a resumed run no longer has"):
        trainer(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "new"), max_epochs=2).fit(
            Toy(), DataLoader(finetune(), 8), ckpt_path=tmp_path / "end.ckpt"
        )
    assert not (tmp_path / "new").exists()


def test_fit_of_no_steps_records(tmp_path):
    module = Toy()
    fit(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l"), module, max_epochs=-1, max_steps=0)
    assert module.seen == []
    assert Ledger.open(tmp_path / "l").correct.tolist() == ledger().correct.tolist()


def test_finetuning_may_start_from_a_checkpoint_of_pretraining(tmp_path):
    pretraining = trainer(max_epochs=2)
    pretrained = Toy(base=False)
    pretraining.fit(pretrained, DataLoader(pool(), 8))
    pretraining.save_checkpoint(tmp_path / "pretrained.ckpt")
    expected = record_ledger(pretrained, pool(), tmp_path / "expected")
    for _ in range(2):  # recorded in the first run, read in the second
        callback = RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l")
        module = Toy(base=False)
        trainer(callback, max_epochs=4).fit(
            module, DataLoader(finetune(), 8), ckpt_path=tmp_path / "pretrained.ckpt"
        )
        assert len(module.seen) > 0
    assert Ledger.open(tmp_path / "l").correct.tolist() == expected.correct.tolist()
    record_ledger(Toy(), pool(), tmp_path / "other")
    callback = RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "other")
    with pytest.raises(LedgerError, match="must be the base model the ledger was made with"):
        trainer(callback, max_epochs=4).fit(
            Toy(), DataLoader(finetune(), 8), ckpt_path=tmp_path / "pretrained.ckpt"
        )


def sharded(monkeypatch):
    """Let Lightning restore checkpoints as late as it does for sharded modules, which need accelerators."""
    monkeypatch.setattr(SingleDeviceStrategy, "restore_checkpoint_after_setup", property(lambda self: True))


def test_sharded_module_does_not_record(tmp_path, monkeypatch):
    sharded(monkeypatch)
    with pytest.raises(LedgerError, match="must be recorded already, because a sharded module cannot be run"):
        fit(RehearsalCallback(MixCD(), pool=pool(), ledger=tmp_path / "l"))


def test_run_is_resumed_where_checkpoints_are_restored_late(tmp_path, monkeypatch):
    whole = fit(RehearsalCallback(MixCD(), pool=pool(), ledger=ledger()), max_epochs=2)
    sharded(monkeypatch)
    run = trainer(RehearsalCallback(MixCD(), pool=pool(), ledger=ledger()))
    run.fit(Toy(), DataLoader(finetune(), 8))
    run.save_checkpoint(tmp_path / "end.ckpt")
    callback, second = RehearsalCallback(MixCD(), pool=pool(), ledger=ledger()), Toy()
    trainer(callback, max_epochs=2).fit(second, DataLoader(finetune(), 8), ckpt_path=tmp_path / "end.ckpt")
    assert rehearsed(second) == rehearsed(whole)[5:]
    assert callback.compute_units == 2 * 3 * 50


def test_ledger_recorded_here_is_that_of_record_ledger(tmp_path):
    here = RehearsalCallback(NoRehearsal(), pool=pool(), ledger=tmp_path / "here")
    fit(here)
    by_hand = record_ledger(Toy(), pool(), tmp_path / "by_hand")
    ours = Ledger.open(tmp_path / "here")
    assert ours.columns == by_hand.columns == ("correct", "loss", "label")
    assert all((ours.column(name) == by_hand.column(name)).all() for name in ours.columns)


def test_learning_rate_finder_sees_plain_batches_and_leaves_the_run_as_it_was():
    finder = pl.callbacks.LearningRateFinder(num_training_steps=5, max_lr=0.01, update_attr=False)
    callback = RehearsalCallback(MixCD(), pool=pool(), ledger=ledger())
    found = fit(callback, Toy(), finder)
    assert sizes(found.seen)[-5:] == [10] * 5
    assert set(sizes(found.seen)[:-5]) == {8}
    assert found.seen[-5:] == fit(RehearsalCallback(MixCD(), pool=pool(), ledger=ledger())).seen
    assert callback.compute_units == 3 * 50


def test_other_batches_that_are_moved_meanwhile_are_left_alone():
    """Such as unlabelled ones that a step fetches, or samples that a callback shows."""

    class Fetching(Toy):
        def on_train_start(self):
            self.own = iter(DataLoader(finetune(), 8))

        def training_step(self, batch, batch_idx):
            moved = self.trainer.strategy.batch_to_device(next(self.own))
            sizes.append(len(moved[0]))
            return super().training_step(batch, batch_idx)

    def show(run, *_):
        sizes.append(len(run.strategy.batch_to_device(next(iter(DataLoader(finetune(), 8))))[0]))

    sizes, runs = [], []
    for module, others in ((Toy(), []), (Fetching(), [OnBatchEnd(show)])):
        callback = RehearsalCallback(MixCD(), pool=Pool(pool(), lag=1), ledger=ledger(), mix_ratio=0.5)
        trainer(callback, *others, max_epochs=1).fit(module, DataLoader(finetune(), 8))
        runs.append((module.seen, callback.strategy.signal().tolist()))
    assert runs[0] == runs[1]
    assert sizes == [8] * 10


def test_pad_values_by_path_hold_across_draws():
    def collate(rows):
        return pad_sequence([x for x, _ in rows], batch_first=True), torch.tensor([y for _, y in rows])

    class Summing(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(1, 2)

        def training_step(self, batch, batch_idx):
            assert len(batch[0]) >= 10
            logits = self.net(batch[0].sum(1, keepdim=True))
            return {"loss": logits.square().mean(), "logits": logits}

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    rows = [(torch.ones(3 + i % 5), i % 2) for i in range(60)]
    samples = Pool(rows, collate_fn=collate, pad_values={"batch[0]": 0})
    # Steps of 2 and 3 rows, of draws of 3.
    callback = RehearsalCallback(Uniform(), pool=samples, mix_ratio=0.25)
    trainer(callback).fit(Summing(), DataLoader(rows, 10, collate_fn=collate))


@pytest.mark.parametrize("seed", [-3, 2**70])
def test_any_whole_number_is_a_seed(seed):
    data = RehearsalDataModule(
        Finetune(shuffle=True), Pool(pool(), num_workers=1), ledger=ledger(), order_seed=seed
    )
    callback = RehearsalCallback(MixCD(partition=Shuffled(ByLossQuantile(3), seed=seed)), seed=seed)
    trainer(callback).fit(Toy(), datamodule=data)


@pytest.mark.parametrize("strategy", [HeadProbe, ProbeMatching])
def test_probes_work_in_double_precision(strategy, tmp_path):
    x, y = pool().tensors
    doubled = TensorDataset(x.double(), y)
    torch.set_default_dtype(torch.float64)
    try:
        module = Toy().double()
        callback = RehearsalCallback(strategy(), pool=doubled, ledger=tmp_path / "l", mix_ratio=0.5)
        x, y = finetune().tensors
        trainer(callback, max_epochs=2).fit(module, DataLoader(TensorDataset(x.double(), y), 8))
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(module.seen) == 10
