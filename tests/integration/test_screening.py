"""Looking at the model in the middle of training: what it changes, nothing; what it costs, all counted."""

import random

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torchmetrics
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixcd import (
    ASER,
    MIR,
    CaptureError,
    ClassBalanced,
    GradientMatching,
    LastLayerInfluence,
    Pool,
    Readout,
    RehearsalCallback,
    RehearsalDataModule,
    ScreenDamaged,
    ScreenHighestLoss,
    Screening,
    ScreenLeastConfidence,
    Strategy,
    Uniform,
)
from tests.integration import test_no_waits as no_waits
from tests.toys import N_POOL, Finetune, Listed, Toy, finetune, ledger, pool, rehearsed, trainer, weights

SCREENS = [
    MIR,
    lambda: MIR(learning_rate=0.5),
    LastLayerInfluence,
    GradientMatching,
    ASER,
    lambda: ASER(ClassBalanced(), score="asv"),
    ScreenDamaged,
    lambda: ScreenDamaged(order="loss"),
    ScreenHighestLoss,
    ScreenLeastConfidence,
]


class Trained(Toy):
    """Remembers what it was trained on, not what it was looked at with."""

    def training_step(self, batch, batch_idx):
        if self.training:
            return super().training_step(batch, batch_idx)
        logits = self.net(batch[0][:, :-1])
        loss = cross_entropy(logits, batch[1])
        self.log("train_loss", loss)
        return self.outputs(loss, logits)


class LookAround(Screening):
    """Asks for all there is to see, and keeps the first rows whatever it sees."""

    needs_features = True

    def __init__(self):
        super().__init__(candidates_per_row=3)

    def screen(self, candidates, n):
        look = candidates.look
        gradient = look.gradient(candidates.finetune)
        stepped = {name: value - gradient[name] for name, value in look.trainable().items()}
        look.see(candidates.rows, weights={**look.snapshot(), **stepped})
        list(look.gradients_by_row(candidates.rows, lambda seen: seen.loss))
        assert look.see(candidates.rows).features is not None
        return torch.arange(n)


class Given(Strategy):
    """Draws what it was told."""

    def __init__(self, index):
        self.index = iter(index)

    def setup(self, n_pool, ledger, *, seed):
        self.n_available = n_pool

    def select(self, n, *, signal, generator):
        return torch.tensor([next(self.index) for _ in range(n)])


class Delicate(Trained):
    """Everything that a look could disturb."""

    def __init__(self):
        super().__init__(dropout=0.4)
        self.net = nn.Sequential(self.net[0], nn.BatchNorm1d(8), *self.net[1:])
        self.accuracy = torchmetrics.MeanMetric()
        self.chance, self.gradients = [], []

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        self.accuracy((outputs["logits"].argmax(1) == batch[1]).float())
        self.log("accuracy", self.accuracy)
        drawn = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
        if self.training:
            self.chance.append(drawn)
        return outputs

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.parameters()]))


def run(strategy, module=None, *, seed=5, **settings):
    pl.seed_everything(seed, verbose=False)
    module, logger = module or Trained(), Listed()
    given = {name: settings.pop(name) for name in ("readout", "ledger") if name in settings}
    callback = RehearsalCallback(strategy, pool=Pool(pool(), lag=4), mix_ratio=0.5, **given)
    settings = {"max_epochs": 3, "logger": logger, "log_every_n_steps": 1, **settings}
    trainer(callback, **settings).fit(module, DataLoader(finetune(), 8, shuffle=True))
    return module, logger, callback


@pytest.mark.parametrize("settings", [{}, {"accumulate_grad_batches": 2}, {"precision": "bf16-mixed"}])
def test_looking_changes_nothing(settings):
    looked, log, callback = run(LookAround(), Delicate(), **settings)
    plain, plain_log, plain_callback = run(
        Given([i for step in rehearsed(looked) for i in step] + [*range(N_POOL)]), Delicate(), **settings
    )
    assert looked.seen == plain.seen
    assert [len(step) for step in rehearsed(looked)] == [4] * 15
    assert torch.equal(weights(looked), weights(plain))
    assert all(torch.equal(a, b) for a, b in zip(looked.gradients, plain.gradients, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(looked.buffers(), plain.buffers(), strict=True))
    assert looked.chance == plain.chance
    own = [
        [{k: v for k, v in row.items() if k != "rehearsal/compute_units"} for _, row in each.rows]
        for each in (log, plain_log)
    ]
    assert own[0] == own[1]
    assert callback.compute_units > plain_callback.compute_units


@pytest.mark.parametrize("screen", SCREENS)
def test_compute_units_are_those_that_hooks_count(screen):
    module, counted = Trained(), []
    module.net[0].register_forward_hook(lambda _layer, _inputs, output: counted.append(len(output)))
    module.net[-1].register_full_backward_hook(lambda _layer, _, output: counted.append(2 * len(output[0])))
    _, logger, callback = run(screen(), module, ledger=ledger())
    assert callback.compute_units == sum(counted)
    assert logger.values("rehearsal/compute_units")[-1] == sum(counted)
    assert sum(counted) > 15 * 3 * 12


def test_virtual_steps_are_those_of_the_optimizer():
    class HeadOnly(Trained):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[-1].parameters(), 2.0)

    frozen = HeadOnly()
    frozen.net[0].requires_grad_(False)
    runs = [run(MIR(), module)[0] for module in (HeadOnly(), frozen)]
    assert runs[0].seen == runs[1].seen


@pytest.mark.parametrize("screen", SCREENS)
def test_rows_are_chosen_among_the_candidates(screen):
    module, _, callback = run(screen(), ledger=ledger())
    index = [i for step in rehearsed(module) for i in step]
    assert [len(step) for step in rehearsed(module)] == [4] * 15
    assert all(len({*step}) == 4 for step in rehearsed(module))
    per_row = callback.strategy.candidates_per_row
    # Each pool sample is a candidate once before any is twice.
    assert all(index.count(i) <= -(-15 * 4 * per_row // N_POOL) for i in index)
    assert rehearsed(run(screen(), ledger=ledger())[0]) == rehearsed(module)


class Accelerated(Trained, no_waits.Accelerated):
    """On a device where reading waits."""


accelerator = no_waits.accelerator


@pytest.mark.parametrize("screen", SCREENS)
def test_nothing_waits_for_the_device(screen, accelerator):
    callback = RehearsalCallback(screen(), pool=Pool(pool(), lag=4), ledger=ledger())
    module = Accelerated()
    trainer(callback, max_epochs=2).fit(module, DataLoader(finetune(), 8))
    assert len(module.seen) == 10


@pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")
@pytest.mark.parametrize("screen", [MIR, LastLayerInfluence, ScreenDamaged])
def test_a_resumed_run_goes_on_as_it_would_have(screen, tmp_path):
    def fit(folder, ckpt_path=None):
        pl.seed_everything(1 if ckpt_path is None else 2, verbose=False)
        module = Trained()
        kept = ModelCheckpoint(tmp_path / folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        callback, given = RehearsalCallback(screen()), {"ledger": ledger(), "mix_ratio": 0.3, "order_seed": 4}
        data = RehearsalDataModule(Finetune(shuffle=True), Pool(pool(), lag=4), **given)
        run = trainer(callback, kept, enable_checkpointing=True, max_epochs=2)
        run.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, callback

    whole, callback = fit("whole")
    for step in (2, 5, 8):
        resumed, other = fit(f"from {step}", tmp_path / "whole" / f"step={step}.ckpt")
        assert resumed.seen == whole.seen[step:]
        assert torch.equal(weights(resumed), weights(whole))
        assert other.compute_units == callback.compute_units


@pytest.mark.parametrize("readout", [Readout(module="net.3"), Readout(module="net.3", features="net.3")])
def test_a_named_submodule_is_read_as_in_training(readout):
    runs = [run(LookAround(), ledger=ledger(), readout=given) for given in (Readout(), readout)]
    shares = [logger.values("rehearsal/damaged_share") for _, logger, _ in runs]
    assert shares[0] == shares[1]
    assert any(share > 0 for share in shares[0])
    assert torch.equal(*(weights(module) for module, _, _ in runs))


class Hooked(Trained):
    """Changes batches on the device, by chance."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return [torch.cat([x[:, :-1] + torch.randn(len(x), 4), x[:, -1:]], 1), y]


class InPlace(Trained):
    """Changes them where they are."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        batch[0][:, :-1] *= 2
        return batch


@pytest.mark.parametrize("module", [Hooked, InPlace])
def test_candidates_and_finetune_rows_are_as_the_training_step_would_get_them(module):
    class Noting(LookAround):
        def screen(self, candidates, n):
            for rows, data in ((candidates.rows, pool()), (candidates.finetune, finetune())):
                x, y = rows
                plain, label = data[(x[:, -1] % 1000).long()]
                assert torch.equal(y, label)
                assert (x[:, :-1] != plain[:, :-1]).all()
            return super().screen(candidates, n)

    hooked, _, _ = run(Noting(), module())
    plain, _, _ = run(Given([i for step in rehearsed(hooked) for i in step] + [*range(N_POOL)]), module())
    assert torch.equal(weights(hooked), weights(plain))


def test_a_model_that_cannot_be_looked_at_is_refused_before_the_first_step():
    class Manual(Toy):
        automatic_optimization = False

    module = Manual()
    with pytest.raises(CaptureError, match="manual optimization would train"):
        run(MIR(), module)
    assert not module.seen


def test_a_pool_too_small_for_the_candidates_is_refused():
    callback = RehearsalCallback(MIR(), pool=torch.utils.data.Subset(pool(), range(10)), mix_ratio=0.5)
    with pytest.raises(ValueError, match=r"`n` must be between 1 and .* MIR may draw \(10\), got 20"):
        trainer(callback).fit(Trained(), DataLoader(finetune(), 8))


def test_mir_rehearses_what_the_step_raises_more_than_the_mean():
    class Rises(Screening):
        def __init__(self, inner):
            super().__init__(candidates_per_row=5)
            self.inner, self.rises = inner, []

        def screen(self, candidates, n):
            look = candidates.look
            gradient = look.gradient(candidates.finetune)
            stepped = {k: v - look.learning_rate * gradient[k] for k, v in look.trainable().items()}
            rise = look.see(candidates.rows, weights=stepped).loss - look.see(candidates.rows).loss
            chosen = self.inner.screen(candidates, n)
            self.rises.append(float((rise[chosen].mean() - rise.mean()).detach()))
            return chosen

    strategy = Rises(MIR())
    run(strategy)
    assert len(strategy.rises) == 15
    assert min(strategy.rises) > 0


def test_looks_without_choice_equal_uniform_on_the_same_candidates():
    """The first of the candidates that `Uniform` draws, in its order."""
    module, _, _ = run(LookAround())
    uniform = Uniform()
    uniform.setup(N_POOL, None, seed=0)
    order = uniform.select(N_POOL, signal=None, generator=torch.Generator()).tolist()
    n_draws = N_POOL // 12
    expected = [order[12 * k : 12 * k + 4] for k in range(n_draws)]
    assert rehearsed(module)[:n_draws] == expected
