"""Looking at a model: what is seen, and that no trace is left."""

import random
import sys

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_mixcd import CaptureError, MixCD, Oracle, Pool, PoolError, RehearsalCallback, record_ledger
from lightning_mixcd.capture import Readout
from lightning_mixcd.probe import Probe
from lightning_mixcd.strategies import MIR, ScreenHighestLoss
from lightning_mixcd.traceless import quiet
from tests.toys import (
    N_POOL,
    Listed,
    LossOnly,
    Toy,
    base_state,
    finetune,
    ledger,
    network,
    plain_readings,
    pool,
    trainer,
)


def readings(probe, index):
    return [
        (i, bool(c), float(v))
        for rows, r in probe.readings(index)
        for i, c, v in zip(rows.tolist(), r.correct, r.loss, strict=True)
    ]


@pytest.mark.parametrize(
    ("index", "batch_size", "num_workers"),
    [
        (range(60), 7, 0),
        (range(60), 256, 0),
        ([3, 59, 0, 3], 2, 0),
        ([3, 59, 0, 3], 2, 1),
        (np.array([7]), 7, 0),
        ([], 7, 0),
    ],
)
def test_readings_are_those_of_a_plain_loop(index, batch_size, num_workers):
    correct, loss = plain_readings(base_state(), pool())
    probe = Probe(Toy(dropout=0.5), Pool(pool(), num_workers=num_workers, batch_size=batch_size), Readout())
    found = readings(probe, index)
    assert [i for i, _, _ in found] == list(index)
    assert [c for _, c, _ in found] == correct[torch.as_tensor(list(index), dtype=torch.int64)].tolist()
    assert [v for _, _, v in found] == pytest.approx([float(loss[i]) for i in index], rel=1e-4, abs=1e-5)
    assert probe.forwards == len(index)


def test_correct_of_some_samples():
    probe = Probe(Toy(), Pool(pool(), batch_size=4), Readout())
    index = torch.tensor([5, 1, 33, 2, 9])
    assert probe.correct(index).tolist() == plain_readings(base_state(), pool())[0][index].tolist()


def test_losses_and_confidences_of_some_samples():
    probe, index = Probe(Toy(), Pool(pool(), batch_size=4), Readout()), torch.tensor([5, 1, 33, 2, 9])
    expected = plain_readings(base_state(), pool())[1][index]
    torch.testing.assert_close(probe.losses(index), expected, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        logits = Toy().net(pool().tensors[0][index, :-1])
    sure = (logits.exp() / logits.exp().sum(1, keepdim=True)).max(1).values
    torch.testing.assert_close(probe.confidences(index), sure)
    assert probe.forwards == 10


def test_outputs_without_losses_or_logits_are_refused():
    readout = Readout(correctness=lambda outputs, batch: batch[1] > 0, step=lambda module, batch: {})
    probe = Probe(Toy(), Pool(pool()), readout)
    with pytest.raises(CaptureError, match=r"loss of each pool sample is asked for, .* Return logits"):
        probe.losses(torch.arange(3))
    with pytest.raises(
        CaptureError, match=r"confidence of each .* no logits\. Return them, or .* HighestLoss"
    ):
        probe.confidences(torch.arange(3))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.log = network()  # a name that LightningModule uses otherwise
        self.log.load_state_dict(base_state())

    def forward(self, x):
        return self.log(x[:, :-1])


class ByName(Plain):
    def forward(self, x, label):
        return {"loss": torch.tensor(0.0), "logits": super().forward(x)}


class Named(Dataset):
    def __len__(self):
        return len(pool())

    def __getitem__(self, index):
        x, y = pool()[index]
        return {"x": x, "label": y}


@pytest.mark.parametrize(("module", "data"), [(Plain(), pool()), (ByName(), Named())])
def test_plain_modules_are_called_with_the_batch(module, data):
    probe = Probe(module, Pool(data), Readout())
    assert probe.correct(torch.arange(60)).tolist() == plain_readings(base_state(), pool())[0].tolist()


@pytest.mark.parametrize("unreadable", ["raise", "skip"])
def test_sample_that_cannot_be_read_is_never_looked_past(unreadable):
    class Holed(TensorDataset):
        def __getitem__(self, i):
            return super().__getitem__(i if i != 5 else 10**6)

    probe = Probe(Toy(), Pool(Holed(*pool().tensors), unreadable=unreadable, batch_size=4), Readout())
    with pytest.raises(PoolError, match=r"Holed raised IndexError.* for pool index 5"):
        probe.correct(torch.arange(8))


def test_step_without_batch_index():
    class Short(Toy):
        def training_step(self, batch):
            return super().training_step(batch, 0)

    probe = Probe(Short(), Pool(pool()), Readout())
    assert probe.correct(torch.arange(60)).tolist() == plain_readings(base_state(), pool())[0].tolist()


def test_own_step_is_what_is_run():
    readout = Readout(step=lambda module, batch: {"logits": -module.net(batch[0][:, :-1])})
    probe = Probe(Toy(), Pool(pool()), readout)
    x, y = pool().tensors
    worst = Toy().net(x[:, :-1]).argmin(1) == y
    assert probe.correct(torch.arange(60)).tolist() == worst.tolist()


def test_submodule_is_listened_to_while_looking():
    module = LossOnly()
    hooks = len(module.net._forward_hooks)
    probe = Probe(module, Pool(pool()), Readout(module="net"))
    assert probe.correct(torch.arange(60)).tolist() == plain_readings(base_state(), pool())[0].tolist()
    assert len(module.net._forward_hooks) == hooks


def test_compiled_lightning_module_is_looked_into():
    probe = Probe(torch.compile(Toy(), backend="eager"), Pool(pool()), Readout())
    assert probe.correct(torch.arange(60)).tolist() == plain_readings(base_state(), pool())[0].tolist()


class Drawing(Dataset):
    """Draws from every global source at every read."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        x, y = pool()[index]
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        return torch.cat([x[:-1] + float(noise), x[-1:]]), y


def states():
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


class Inner(pl.LightningModule):
    """Logs on its own account, as a part of a larger module may."""

    def forward(self, x):
        self.log("inner", x.mean())
        return x


class Delicate(Toy):
    """Everything that a careless look would leave a trace in."""

    def __init__(self, inner=None):
        super().__init__(dropout=0.5)
        self.norm = nn.BatchNorm1d(4)
        self.inner = inner or nn.Identity()
        self.accuracy = torchmetrics.MeanMetric()
        self.more = torchmetrics.MetricCollection({
            "mean": torchmetrics.MeanMetric(),
            "sum": torchmetrics.SumMetric(),
        })

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(self.inner(self.norm(x[:, :-1])))
        right = (logits.argmax(1) == y).float()
        self.accuracy(right)
        self.more.update(right)
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log_dict(self.more, on_step=False, on_epoch=True)
        return {"loss": nn.functional.cross_entropy(logits, y), "logits": logits}


@pytest.mark.parametrize("fails", [False, True])
def test_no_trace_is_left(fails):
    module = Delicate(Inner())
    module.net[1].eval()  # frozen parts stay frozen
    module.accuracy.update(torch.tensor([1.0]))
    module.more.update(torch.tensor([1.0]))
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    modes = {name: m.training for name, m in module.named_modules()}
    buffers = {name: b.clone() for name, b in module.named_buffers()}
    metrics, before = dict(module.named_children()), states()
    readout = Readout(correctness=lambda outputs, batch: 1 / 0) if fails else Readout()
    probe = Probe(module, Pool(Drawing(), batch_size=6), readout)
    if fails:
        with pytest.raises(ZeroDivisionError):
            probe.correct(torch.arange(20))
    else:
        probe.correct(torch.arange(20))
    assert states() == before
    assert torch.is_grad_enabled()
    assert {name: m.training for name, m in module.named_modules()} == modes
    assert all(torch.equal(b, buffers[name]) for name, b in module.named_buffers())
    assert all(bool((p.grad == 1).all()) for p in module.parameters())
    assert all(child is metrics[name] for name, child in module.named_children())
    assert float(module.accuracy.compute()) == 1.0
    assert {k: float(v) for k, v in module.more.compute().items()} == {"mean": 1.0, "sum": 1.0}
    assert not {"log"} & (set(module.__dict__) | set(module.inner.__dict__))


def test_iterator_that_is_closed_early_leaves_no_trace():
    module = Toy()
    found = Probe(module, Pool(Drawing(), batch_size=6), Readout()).readings(range(20))
    before = states()
    next(found)
    assert not module.training
    found.close()
    assert module.training
    assert torch.is_grad_enabled()
    assert states() == before


def test_error_held_on_to_does_not_hold_the_module_in_eval_mode(tmp_path):
    x, y = pool().tensors
    spoiled = TensorDataset(torch.cat([x.clone().index_fill_(0, torch.tensor([7]), float("nan"))]), y)
    module = Toy()
    with pytest.raises(ValueError, match=r"index 7") as held:
        record_ledger(module, spoiled, tmp_path / "l", batch_size=4)
    assert held.tb is not None  # as a notebook holds on to the last traceback
    assert module.training
    assert torch.is_grad_enabled()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_error_of_the_users_step_says_that_the_batch_was_the_pools(tmp_path):
    with pytest.raises(TypeError, match=r"indices must be") as caught:  # a plain pool beside a collate_fn
        record_ledger(Toy(), pool(), tmp_path / "l", readout=Readout(step=lambda module, batch: batch["x"]))
    assert caught.value.__notes__[0].startswith("This was a batch of the pool, which must be what")


def test_random_transforms_give_the_same_samples_every_time():
    probe = Probe(Toy(), Pool(Drawing()), Readout())
    torch.manual_seed(1)
    first = readings(probe, range(20))
    torch.manual_seed(2)
    assert readings(probe, range(20)) == first


def test_transforms_of_the_module_draw_anew_for_each_batch_and_the_same_every_time():
    class Noisy(Toy):
        def on_after_batch_transfer(self, batch, dataloader_idx):
            noise.append(float(torch.rand(())))
            return batch

    noise = []
    probe = Probe(Noisy(), Pool(pool(), batch_size=4), Readout())
    for _ in range(2):
        readings(probe, range(20))
    assert len({*noise}) == 5
    assert noise[:5] == noise[5:]


def test_mute_keeps_a_log_of_the_users_own():
    module = Toy()
    module.log = own = lambda *args, **kwargs: None
    with quiet(module):
        assert module.log is not own
    assert module.log is own


def test_what_a_step_writes_to_its_logger_is_of_training_alone(tmp_path):
    class Writing(Toy):
        def training_step(self, batch, batch_idx):
            self.logger.log_metrics({"mine": 1.0}, step=self.trainer.global_step)
            self.logger.experiment.add_scalar("mine", 1.0)
            return super().training_step(batch, batch_idx)

    class Experiment(Listed):
        calls = 0

        @property
        def experiment(self):
            return self

        def add_scalar(self, name, value):
            self.calls += 1

    logger, module = Experiment(), Writing()
    callback = RehearsalCallback(Oracle(every_n_steps=2), pool=pool(), ledger=tmp_path / "l")
    run = trainer(callback, logger=logger, log_every_n_steps=0)
    run.fit(module, DataLoader(finetune(), 8))
    assert module.rows_forwarded > 2 * N_POOL
    assert (len(logger.values("mine")), logger.calls) == (5, 5)
    assert run.loggers == [logger]


def test_metrics_that_share_their_counts_are_spared_together():
    # A collection notes whether the counts of its metrics are one and the same or copies.
    def counting(**settings):
        kinds = torchmetrics.classification.MulticlassPrecision, torchmetrics.classification.MulticlassRecall
        return torchmetrics.MetricCollection([kind(3) for kind in kinds], **settings)

    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(3, (2, 20), generator=generator) for _ in range(4)]
    module, expected = Toy(), counting(compute_groups=False)
    module.counts = counting()
    for batch in batches[:2]:
        module.counts.update(*batch)
        expected.update(*batch)
    dict(module.counts.items())  # from here on they are copies
    with quiet(module):
        module.counts.update(*batches[2])
    module.counts.update(*batches[3])
    expected.update(*batches[3])
    assert module.counts.compute() == expected.compute()


def test_a_look_does_not_decide_which_metrics_share_their_counts():
    # A collection goes by its first batch, and here both metrics have the same counts in that of the look.
    def counting(**settings):
        kinds = {f"top{k}": torchmetrics.classification.MulticlassAccuracy(3, top_k=k) for k in (1, 2)}
        return torchmetrics.MetricCollection(kinds, **settings)

    module, expected = Toy(), counting(compute_groups=False)
    module.counts = counting()
    with quiet(module):
        module.counts.update(torch.eye(3), torch.arange(3))
    for metrics in (module.counts, expected):
        metrics.update(torch.eye(3), torch.tensor([1, 1, 1]))
    assert module.counts.compute() == expected.compute()


@pytest.mark.parametrize("kind", [torchmetrics.MeanMetric, lambda: torchmetrics.AUROC("binary")])
def test_metrics_of_what_has_a_graph_are_spared(kind):
    module, weight = Toy(), torch.tensor(0.5, requires_grad=True)
    module.counts = kind()
    given = [] if kind is torchmetrics.MeanMetric else [torch.tensor([0, 1])]

    def count(factor):
        module.counts(factor * weight * torch.tensor([0.2, 0.9]), *given)

    count(1)
    before = module.counts.compute().detach().clone()
    with quiet(module):
        for factor in (1, -1):
            count(factor)
    assert torch.equal(module.counts.compute(), before)


class Counting(Toy):
    """Keeps numbers of its training in buffers, in one of two ways."""

    def __init__(self, *, in_place):
        super().__init__()
        self.in_place, self.losses = in_place, []
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("mean", torch.tensor(1.0))
        self.net.register_buffer("steps", self.steps)  # one of two names

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        loss = outputs["loss"].detach()
        outputs["loss"] = outputs["loss"] / self.mean.clone()
        if self.training:
            self.losses.append(float(loss))
        if self.in_place:
            self.steps += 1
            self.mean.mul_(0.9).add_(loss, alpha=0.1)
        else:
            self.steps = self.steps + 1
            self.mean = 0.9 * self.mean + 0.1 * loss
        return outputs


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("look", [MIR, lambda: Oracle(every_n_steps=2), ScreenHighestLoss])
def test_buffers_count_steps_of_training_alone(look, in_place, tmp_path):
    module = Counting(in_place=in_place)
    callback = RehearsalCallback(look(), pool=pool(), ledger=tmp_path / "l")
    trainer(callback).fit(module, DataLoader(finetune(), 8))
    mean = 1.0
    for loss in module.losses:
        mean = 0.9 * mean + 0.1 * loss
    assert len(module.losses) == int(module.steps) == 5
    assert float(module.mean) == pytest.approx(mean, rel=1e-5)
    assert not in_place or module.net.steps is module.steps


def test_a_graph_from_before_the_look_stays_whole():
    module = Counting(in_place=True)
    loss = module.mean * module.net[0].weight.sum()
    with quiet(module):
        module.training_step(next(iter(DataLoader(finetune(), 8))), 0)
    loss.backward()
    assert bool((module.net[0].weight.grad == 1).all())


def test_steps_find_the_folder_of_their_logger_in_every_look(tmp_path):
    class Asking(Toy):
        def __init__(self):
            super().__init__()
            self.told = []

        def training_step(self, batch, batch_idx):
            logger = self.logger
            places = (logger.log_dir, logger.save_dir, logger.root_dir, logger.name, logger.version)
            self.told.append((self.trainer.log_dir, isinstance(logger, CSVLogger), *places))
            return super().training_step(batch, batch_idx)

    module, logger = Asking(), CSVLogger(tmp_path, "mine", 3)
    callback = RehearsalCallback(MIR(), pool=pool(), ledger=tmp_path / "l")
    trainer(callback, logger=logger).fit(module, DataLoader(finetune(), 8))
    assert len(module.told) > 5
    folder = str(tmp_path / "mine" / "version_3")
    assert {*module.told} == {(folder, True, folder, str(tmp_path), str(tmp_path / "mine"), "mine", 3)}


def test_looks_during_training_change_nothing_but_the_draws():
    # An oracle that looks at the model and then draws as if it had not.
    class Blind(Oracle):
        def signal(self):
            return torch.zeros(60, dtype=torch.bool)

    logged = []
    for every in (1, 1000):
        pl.seed_everything(4, verbose=False)
        logger, module = Listed(), Delicate()
        callback = RehearsalCallback(Blind(every_n_steps=every), pool=pool(), ledger=ledger())
        trainer(callback, logger=logger, max_epochs=3, log_every_n_steps=0).fit(
            module, DataLoader(finetune(), 8, shuffle=True)
        )
        logged.append((logger.rows, [p.tolist() for p in module.parameters()]))
    assert logged[0] == logged[1]
    assert len(logged[0][0]) == 3  # one row of epoch metrics each


def test_ledger_recorded_at_the_start_leaves_the_run_as_it_was(tmp_path):
    runs = []
    for path in (tmp_path / "l", tmp_path / "l"):
        pl.seed_everything(4, verbose=False)
        logger, module = Listed(), Delicate()
        trainer(
            RehearsalCallback(MixCD(), pool=pool(), ledger=path),
            logger=logger,
            log_every_n_steps=1,
            max_epochs=2,
        ).fit(module, DataLoader(finetune(), 8, shuffle=True))
        runs.append((logger.rows, [p.tolist() for p in module.parameters()]))
        pl.seed_everything(4, verbose=False)
    assert runs[0] == runs[1]


def test_manual_optimization_is_refused_when_looked_at():
    class Manual(Toy):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(CaptureError, match="manual optimization cannot be run without training"):
        Probe(Manual(), Pool(pool()), Readout()).correct(torch.arange(3))
