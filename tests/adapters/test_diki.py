"""DIKI as a callback: one task per `fit`, beside rehearsal."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from lightning_mixcd import (
    ExactResume,
    Ledger,
    MixCD,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    record_ledger,
)
from lightning_mixcd.adapters import DIKI
from lightning_mixcd.penalties import Penalty
from tests.adapters.encoders import images, vit
from tests.toys import Listed, OnBatchEnd, trainer


class Module(pl.LightningModule):
    """A classifier as users write them; remembers what it was given."""

    def __init__(self, *, lr=0.05):
        super().__init__()
        self.network, self.lr = vit().train(), lr
        self.rows, self.seen, self.modes = 0, [], []
        self.network.vit.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, part, inputs, named):
        self.rows += len(named.get("pixel_values", inputs[0] if inputs else None))

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.seen.append(x)
        self.modes.append((self.training, torch.is_grad_enabled()))
        logits = self.network(x).logits
        loss = cross_entropy(logits, y)
        self.log("loss", loss)
        return {"loss": loss, "logits": logits}

    def validation_step(self, batch, batch_idx):
        self.log("accuracy", (self.network(batch[0]).logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), self.lr)


def task(kind):
    return TensorDataset(*images(60, kind=kind, seed=kind))


class Task(pl.LightningDataModule):
    def __init__(self, kind):
        super().__init__()
        self.data = task(kind)

    def train_dataloader(self):
        return DataLoader(self.data, batch_size=20, shuffle=True)


def loader(kind):
    return DataLoader(task(kind), batch_size=20)


def diki(*args, **settings):
    return DIKI(*args, **{"length": 4, **settings})


def state_of(module):
    return {k: v.clone() for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}


def moved(one, two):
    return {name for name in one if not torch.equal(one[name], two[name])}


def test_only_the_branch_is_trained():
    module, states = Module(), []
    before = state_of(module)
    watch = OnBatchEnd(lambda t, m, o, b: states.append(state_of(m)))
    callback = diki("one", layers=2)
    trainer(callback, watch).fit(module, loader(1))
    names = {f"mixcd_diki.branches.{layer}.{name}" for layer in range(2) for name in ("keys", "values")}
    # By the first step, keys have no gradient yet.
    assert moved(states[0], states[1]) == names
    assert moved(before, {name: states[-1][name] for name in before}) == set()
    assert not torch.equal(states[0]["mixcd_diki.branches.0.values"], torch.zeros(4, 16))
    assert callback.trainable_parameters == 2 * 2 * 4 * 16
    assert all(p.requires_grad for p in module.parameters())


def test_gaussian_is_of_the_frozen_features_of_the_finetune_data():
    module = Module()
    callback = diki("one")
    trainer(callback).fit(module, DataLoader(task(1), batch_size=20, shuffle=True))
    features = normalize(vit().vit(task(1).tensors[0]).last_hidden_state[:, 0], dim=1)
    gaussians = module.mixcd_diki.gaussians
    torch.testing.assert_close(gaussians.means[0], features.mean(0))
    torch.testing.assert_close(
        gaussians.factors[0] @ gaussians.factors[0].T, features.T.cov(), atol=1e-6, rtol=0
    )
    assert callback.forwards == 60
    assert module.rows == 2 * 60


def test_gaussian_is_of_batches_as_the_loader_makes_them():
    def doubled(samples):
        x, y = default_collate(samples)
        return 2 * x, y

    module = Module()
    trainer(diki("one")).fit(module, DataLoader(task(1), batch_size=20, collate_fn=doubled))
    features = normalize(vit().vit(2 * task(1).tensors[0]).last_hidden_state[:, 0], dim=1)
    torch.testing.assert_close(module.mixcd_diki.gaussians.means[0], features.mean(0))


@pytest.mark.parametrize("shared", [False, True])
def test_gaussian_is_of_the_rows_that_the_loader_takes(shared):
    module, callback = Module(), diki("one")
    sampler = SubsetRandomSampler([*range(20, 50)])
    if shared:  # as Lightning does
        sampler = DistributedSamplerWrapper(sampler, num_replicas=2, rank=0)
    trainer(callback).fit(module, DataLoader(task(1), batch_size=10, sampler=sampler))
    features = normalize(vit().vit(task(1).tensors[0][20:50]).last_hidden_state[:, 0], dim=1)
    torch.testing.assert_close(module.mixcd_diki.gaussians.means[0], features.mean(0))
    assert callback.forwards == 30


def test_sampler_that_may_leave_rows_out_is_refused():
    loader = DataLoader(task(1), batch_size=10, sampler=WeightedRandomSampler([1.0, 0.0] * 30, 30))
    with pytest.raises(TypeError, match=r"got DataLoader with WeightedRandomSampler\. Fit the Gaussian"):
        trainer(diki()).fit(Module(), loader)


def test_branch_that_no_optimizer_has_is_refused():
    class OfTheNetwork(Module):
        def configure_optimizers(self):
            return torch.optim.Adam(self.network.parameters())

    with pytest.raises(
        ValueError, match=r"`configure_optimizers` must take all that DIKI .*self\.parameters"
    ):
        trainer(diki()).fit(OfTheNetwork(), loader(1))


def test_gate_is_that_of_the_last_callback():
    module = Module()
    for asked in (True, False):
        callback = diki("one", vote=asked, calibrated=asked)
        callback.setup(trainer(), module, "fit")
        assert callback.pools.vote is callback.pools.calibrated is asked


def test_looking_at_the_features_leaves_no_trace():
    plain, module = Module(), Module()
    log = Listed()
    pl.seed_everything(1, verbose=False)
    trainer(logger=log).fit(plain, DataLoader(task(1), batch_size=20, shuffle=True))
    pl.seed_everything(1, verbose=False)
    trainer(diki("one"), logger=Listed()).fit(module, DataLoader(task(1), batch_size=20, shuffle=True))
    assert module.training
    assert module.network.training
    assert module.modes == [(False, False)] * 3 + [(True, True)] * 3
    # Behind the three batches that were looked at, in the order of the data.
    torch.testing.assert_close(torch.cat(module.seen[:3]), task(1).tensors[0])
    torch.testing.assert_close(module.seen[3:], plain.seen)


def chain(*kinds):
    module = Module()
    for kind in kinds:
        trainer(diki(), max_epochs=8).fit(module, loader(kind))
    return module.eval()


def right(module, kind):
    x, y = images(60, kind=kind, seed=kind + 50)
    with torch.no_grad():
        return (module.network(x).logits.argmax(1) == y).float().mean().item()


def test_tasks_are_learnt_one_after_the_other_and_kept():
    one = chain(1)
    expected = one.network(images(9, kind=1, seed=4)[0]).logits
    both = chain(1, 0)
    assert both.mixcd_diki.tasks == ["task 0", "task 1"]
    assert right(both, 0) > 0.6
    assert right(both, 1) > 0.6
    assert right(Module().eval(), 0) < 0.4
    torch.testing.assert_close(both.network(images(9, kind=1, seed=4)[0]).logits, expected)


def test_unseen_data_are_left_to_the_frozen_model():
    module = chain(1)
    x = 100 * images(9, kind=2)[0].flip(-1)
    torch.testing.assert_close(module.network(x).logits, vit()(x).logits, rtol=1e-4, atol=1e-5)


def test_next_fit_of_a_task_goes_on():
    module = Module()
    trainer(diki("one")).fit(module, loader(1))
    keys = module.mixcd_diki.branches[0].keys.detach().clone()
    callback = diki("one")
    callback.setup(trainer(), module, "fit")
    assert module.mixcd_diki.tasks == ["one"]
    assert torch.equal(module.mixcd_diki.branches[0].keys, keys)
    assert not callback.pools.needs_features


def test_rehearsed_rows_go_through_the_branch():
    # The gate is not asked in training: prior rows, however far from the task, are answered by its branch,
    # and train it. In validation they are left to the frozen model.
    pool = TensorDataset(100 * task(2).tensors[0].flip(-1), task(2).tensors[1])
    weights = []

    class Watch(Module):
        def training_step(self, batch, batch_idx):
            out = super().training_step(batch, batch_idx)
            weights.append([(b.training, b.weight) for b in self.mixcd_diki.branches])
            return out

    module = Watch()
    rehearsal = RehearsalCallback(Uniform(), pool=pool, mix_ratio=0.5)
    trainer(rehearsal, diki("one"), max_epochs=2).fit(module, loader(1))
    # Three batches were looked at for the Gaussian, without rehearsed rows.
    assert [len(x) for x in module.seen] == [20] * 3 + [30] * 6
    assert weights[:3] == [[(False, None)] * 3] * 3
    assert weights[3:] == [[(True, None)] * 3] * 6
    x = pool.tensors[0][:5]
    torch.testing.assert_close(module.eval().network(x).logits, vit()(x).logits, rtol=1e-4, atol=1e-5)


def test_penalties_do_not_see_what_is_looked_at():
    class Counting(Penalty):
        steps = 0

        def loss(self, step):
            self.steps += 1

    penalty = Counting()
    rehearsal = RehearsalCallback(Uniform(), pool=task(2), penalties=[penalty])
    trainer(rehearsal, diki()).fit(Module(), loader(1))
    assert penalty.steps == 3


@pytest.mark.parametrize("first", ["adapter", "rehearsal"])
def test_ledger_of_the_base_model_stays_valid(tmp_path, first):
    pool = task(2)
    record_ledger(Module(), pool, tmp_path / "base.ledger")
    rehearsal = RehearsalCallback(MixCD(), pool=pool, ledger=tmp_path / "base.ledger", mix_ratio=0.5)
    callbacks = [diki("one"), rehearsal]
    trainer(*(callbacks if first == "adapter" else callbacks[::-1])).fit(Module(), loader(1))
    assert rehearsal.compute_units == 60 + 3 * (60 + 30)


def test_ledger_of_a_model_that_has_learnt_a_task(tmp_path):
    module, pool = chain(1).train(), task(1)
    ledger = record_ledger(module, pool, tmp_path / "next.ledger")
    x, y = pool.tensors
    assert ledger.correct.tolist() == (module.eval().network(x).logits.argmax(1) == y).tolist()
    rehearsal = RehearsalCallback(MixCD(), pool=pool, ledger=ledger, mix_ratio=0.5)
    trainer(rehearsal, diki()).fit(module, loader(0))
    assert module.mixcd_diki.tasks == ["task 0", "task 1"]


def ledger():
    n = 60
    return Ledger.from_arrays(torch.arange(n) % 3 > 0, torch.linspace(0, 1, n), label=task(2).tensors[1])


# The resumed run keeps no checkpoints, which Lightning warns of.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("cut", [1, 4])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, cut):
    trainer(diki("zero")).fit(before := Module(), loader(0))

    def run(*callbacks, module=None, ckpt_path=None, **settings):
        pl.seed_everything(1, verbose=False)
        module = module or Module()
        data = RehearsalDataModule(Task(1), task(2), ledger=ledger(), mix_ratio=0.5, order_seed=3)
        callbacks = [RehearsalCallback(MixCD()), diki("one"), ExactResume(), *callbacks]
        trainer(*callbacks, max_epochs=2, **settings).fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(keep, module=before, enable_checkpointing=True)
    # Into a module that has learnt nothing, not even the earlier task.
    resumed = run(ckpt_path=tmp_path / f"step={cut}.ckpt")
    assert resumed.mixcd_diki.tasks == ["zero", "one"]
    assert not moved(state_of(whole), state_of(resumed))
    assert torch.equal(whole.mixcd_diki.gaussians.factors, resumed.mixcd_diki.gaussians.factors)


def test_checkpoint_is_validated_by_a_new_module(tmp_path):
    module = Module()
    keep = ModelCheckpoint(tmp_path, filename="last")
    run = trainer(diki(), keep, max_epochs=4, enable_checkpointing=True)
    run.fit(module, loader(1), loader(1))
    run = trainer(diki(), ModelCheckpoint(tmp_path), enable_checkpointing=True)
    [found] = run.validate(Module(), loader(1), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    [expected] = trainer().validate(module, loader(1), verbose=False)
    assert found == expected


@pytest.mark.parametrize("heads", [["network.classifier"], "network.classifier"])
def test_head_is_trained_too_if_named(heads):
    module = Module()
    before = state_of(module)
    trainer(diki("one", heads=heads)).fit(module, loader(1))
    after = state_of(module)
    assert moved(before, {name: after[name] for name in before}) == {
        "network.classifier.weight",
        "network.classifier.bias",
    }


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"layers": 0}, "`layers` must be at least 1, got 0"),
        ({"length": 0}, "`length` must be at least 1, got 0"),
        ({"speed": 0}, r"`speed` must be in \(0, inf\), got 0"),
    ],
)
def test_bad_numbers_are_refused(settings, match):
    with pytest.raises(ValueError, match=match):
        DIKI(**settings)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(task(1))


def test_stream_needs_a_gaussian_by_hand():
    stream = DataLoader(Stream(), batch_size=20)
    with pytest.raises(TypeError, match=r"with a `batch_size` .*, got DataLoader .*Fit the Gaussian"):
        trainer(diki()).fit(Module(), stream)

    class ByHand(pl.Callback):
        def on_fit_start(self, trainer, pl_module):
            x = task(1).tensors[0]
            pl_module.mixcd_diki.fit(pl_module.mixcd_diki.features_of(lambda: pl_module.network(x)))

    module = Module()
    trainer(diki(), ByHand()).fit(module, stream)
    assert len(module.mixcd_diki.gaussians) == 1
