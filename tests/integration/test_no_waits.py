"""No step waits for the device, and none is compiled anew."""

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixcd import (
    ClassBalanced,
    EveryNSteps,
    HeadProbe,
    HighestLoss,
    LossProportional,
    MixCD,
    Pool,
    PredictedForgetting,
    Readout,
    RehearsalCallback,
    Uniform,
)
from lightning_mixcd.data import stream
from lightning_mixcd.data.host_copy import HostCopy
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.penalties import AGEM, DER, EWC, L2SP, Distillation
from lightning_mixcd.schedules import HoldRetention, ModelTime, _delayed
from lightning_mixcd.session import Session
from lightning_mixcd.terms import Terms
from tests.penalties.replay import full_ledger
from tests.toys import Listed, Toy, finetune, ledger, network, pool, trainer

READS = {
    *(Tensor.item, Tensor.tolist, Tensor.numpy, Tensor.cpu, Tensor.nonzero, Tensor.unique, torch.nonzero),
    *(Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, torch.equal, Tensor.equal),
    *(Tensor.__contains__, Tensor.masked_select, torch.unique, torch.bincount, Tensor.bincount),
}


GRADIENT = Tensor.grad.__get__  # which torch leaves a plain tensor


class OnDevice(Tensor):
    """Stands for a tensor on an accelerator: what is computed from it is there too, and reading it waits."""

    watched = False

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if cls.watched and func in READS:
            raise AssertionError(f"{func.__name__} waits for the device")
        found = super().__torch_function__(func, types, args, kwargs or {})
        return found.as_subclass(cls) if func == GRADIENT and found is not None else found

    # Whoever copies a head before training takes the copy to the host.
    def __deepcopy__(self, memo):
        return nn.Parameter(self.detach().as_subclass(Tensor).clone())


def watched(function):
    """The function, within which no value on the device may be read."""

    def watch(*args, **kwargs):
        OnDevice.watched = True
        try:
            return function(*args, **kwargs)
        finally:
            OnDevice.watched = False

    return watch


class Sent(HostCopy):
    """On an accelerator a host copy is under way while training goes on; here, it is another view."""

    def get(self):
        value = super().get()
        return None if value is None else value.as_subclass(Tensor)


class Accelerated(Toy):
    def __init__(self):
        super().__init__()
        for layer in self.net:
            for name, parameter in layer.named_parameters():
                setattr(layer, name, nn.Parameter(parameter.detach().as_subclass(OnDevice)))

    def transfer_batch_to_device(self, batch, device, dataloader_idx):
        return [part.as_subclass(OnDevice) for part in batch]


class Apart(Accelerated):
    def rehearsal_step(self, batch, batch_idx):
        logits = self.net(batch[0][:, :-1])
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits}


@pytest.fixture
def accelerator(monkeypatch):
    for reader in (stream, _delayed):
        monkeypatch.setattr(reader, "HostCopy", Sent)
    monkeypatch.setattr("lightning_mixcd.learner.to_device", lambda t, device: t.as_subclass(OnDevice))
    watched_ones = (
        (Session, "mix"),
        (RehearsalCallback, "on_train_batch_end"),
        (RehearsalCallback, "on_before_optimizer_step"),
        (Terms, "_add"),
    )
    for owner, name in watched_ones:
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))


STRATEGIES = [
    Uniform,
    ClassBalanced,
    lambda: MixCD(partition=ByLabel()),
    lambda: MixCD(wrong_share=0.1),
    lambda: HeadProbe(candidates_per_row=4, importance=0.5, partition=ByLabel()),
    LossProportional,
    HighestLoss,
    PredictedForgetting,
]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("settings", [{}, {"schedule": EveryNSteps(2)}, {"mix_ratio": 0.3}])
def test_steps_read_nothing_of_the_device(strategy, settings, accelerator):
    logger, made = Listed(), strategy()
    callback = RehearsalCallback(made, pool=Pool(pool(), lag=4), ledger=full_ledger(), **settings)
    trainer(callback, logger=logger, log_every_n_steps=1, max_epochs=4).fit(
        Accelerated(), DataLoader(finetune(), 8)
    )
    assert len(logger.values("rehearsal/damaged_share")) > 10
    if isinstance(made, MixCD):
        assert type(made.estimator.damaged) is OnDevice


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": HoldRetention(0.9)},
        {"schedule": ModelTime(2, lag=2)},
        {"penalties": [L2SP(), EWC(n_samples=5)]},
        {"penalties": [Distillation(rows="both"), DER(beta=0.5)]},
        {"penalties": [AGEM()]},
        {"rehearsal_weight": 0.5},
        {"readout": Readout(tolerance=0.2)},
    ],
)
@pytest.mark.parametrize("module", [Accelerated, Apart])
def test_other_parts_read_nothing_of_the_device(module, settings, accelerator):
    callback = RehearsalCallback(Uniform(), pool=Pool(pool(), lag=4), ledger=full_ledger(), **settings)
    logger, module = Listed(), module()
    trainer(callback, logger=logger, log_every_n_steps=1, max_epochs=3).fit(module, DataLoader(finetune(), 8))
    assert len(logger.values("rehearsal/compute_units")) == 15


def test_a_strategy_that_reads_is_caught(accelerator):
    class Reading(MixCD):
        def update(self, tally, *, steps):
            assert float(tally.sum()) >= 0

    callback = RehearsalCallback(Reading(), pool=Pool(pool(), lag=4), ledger=ledger())
    with pytest.raises(AssertionError, match="__float__ waits for the device"):
        trainer(callback).fit(Accelerated(), DataLoader(finetune(), 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_step_synchronizes_with_the_device(num_workers, monkeypatch):
    def strict(function, after):
        calls = []

        def call(*args, **kwargs):
            calls.append(None)
            torch.cuda.set_sync_debug_mode("error" if len(calls) > after else "default")
            try:
                return function(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return call

    monkeypatch.setattr(Session, "mix", strict(Session.mix, after=1))
    monkeypatch.setattr(
        RehearsalCallback, "on_train_batch_end", strict(RehearsalCallback.on_train_batch_end, after=1)
    )
    callback = RehearsalCallback(
        MixCD(partition=ByLabel()), pool=Pool(pool(), num_workers=num_workers), ledger=ledger()
    )
    module = Toy()
    trainer(callback, accelerator="gpu", max_epochs=6).fit(module, DataLoader(finetune(), 8))
    assert len(module.seen) == 30


class Compiled(pl.LightningModule):
    """A network that is compiled, with a backend that counts how often."""

    def __init__(self):
        super().__init__()
        self.net, self.compiled = network(), []
        self.run = torch.compile(self.net, backend=self._count)

    def _count(self, graph, _inputs):
        self.compiled.append(self.global_step)
        return graph.forward

    def training_step(self, batch, batch_idx):
        x, y = batch
        logits = self.run(x[:, :-1])
        return {"loss": cross_entropy(logits.float(), y), "logits": logits}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("mix_ratio", "most"), [(0.5, 1), (0.3, 2)])
def test_compiled_network_is_compiled_once_per_kind_of_size(precision, mix_ratio, most):
    torch.compiler.reset()
    module, strategy = Compiled(), MixCD()
    callback = RehearsalCallback(strategy, pool=pool(), ledger=ledger(), mix_ratio=mix_ratio)
    trainer(callback, precision=precision, max_epochs=8).fit(module, DataLoader(finetune(), 8))
    # Batches of one size; or 2 and 3 rows in turns, for which torch compiles once more, for any size.
    assert 1 <= len(module.compiled) <= most
    assert max(module.compiled) < 3
    assert float(strategy.estimator.seen.sum()) > 0


def test_named_submodule_is_read_inside_a_compiled_network():
    torch.compiler.reset()
    module, strategy = Compiled(), MixCD()
    module.net.append(nn.Identity())
    callback = RehearsalCallback(strategy, pool=pool(), ledger=ledger(), readout=Readout(module="net.4"))
    trainer(callback, max_epochs=2).fit(module, DataLoader(finetune(), 8))
    assert float(strategy.estimator.seen.sum()) > 0
