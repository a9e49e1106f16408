"""Modules that change their batch, detach what they return, or have batches of their own moved."""

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, Dataset

from lightning_mixcd import JoinError, NoRehearsal, Pool, RehearsalCallback, Uniform
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.penalties import DER, EWC, KFAC, MAS, Distillation, Flow
from lightning_mixcd.strategies import MIR, GradientMatching, LastLayerInfluence, ScreenHighestLoss
from tests.penalties.replay import full_ledger
from tests.toys import Toy, finetune, flat, pool, rehearsed, trainer, weights


class Named(Dataset):
    """Samples by name, so that a step may put others in their place."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        x, y = self.samples[index]
        return {"x": x, "y": y}


class Pure(Toy):
    def features_and_labels(self, batch):
        scale = torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0])  # all but the number of the sample
        return batch["x"] * scale, batch["y"]


class Replacing(Pure):
    def features_and_labels(self, batch):
        batch["x"], _ = super().features_and_labels(batch)
        return batch["x"], batch["y"]


class InPlace(Pure):
    def features_and_labels(self, batch):
        batch["x"][:, :-1] *= 0.5
        return batch["x"], batch["y"]


class Separate(Pure):
    def rehearsal_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)


class SeparateInPlace(InPlace):
    def rehearsal_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)


def fit(module, strategy=None, **settings):
    callback = RehearsalCallback(
        strategy or Uniform(),
        pool=Pool(Named(pool()), lag=1),
        ledger=full_ledger(),
        mix_ratio=0.5,
        **settings,
    )
    trainer(callback, max_epochs=2).fit(module, DataLoader(Named(finetune()), 8))
    return weights(module), module.seen, callback.compute_units


LOOKS = {
    "mir": {"strategy": MIR},
    "influence": {"strategy": LastLayerInfluence},
    "screen": {"strategy": ScreenHighestLoss},
    "matching": {"strategy": GradientMatching},
    "distillation": {"penalties": lambda: [Distillation(rows="both")]},
    "flow": {"penalties": lambda: [Flow()]},
    "ewc": {"penalties": lambda: [EWC(n_samples=10)]},
    "weight": {"rehearsal_weight": lambda: 3.0},
    "nothing": {},
}
every_look = pytest.mark.parametrize("looks", LOOKS.values(), ids=LOOKS)


@every_look
@pytest.mark.parametrize("careless", [Replacing, InPlace])
def test_steps_that_change_their_batch_get_each_row_as_it_was(looks, careless):
    pure, changed = (
        fit(kind(), **{name: make() for name, make in looks.items()}) for kind in (Pure, careless)
    )
    assert torch.equal(pure[0], changed[0])
    assert pure[1:] == changed[1:]


@every_look
def test_so_do_rehearsal_steps(looks):
    pure, changed = (
        fit(kind(), **{name: make() for name, make in looks.items()}) for kind in (Separate, SeparateInPlace)
    )
    assert torch.equal(pure[0], changed[0])
    assert pure[1:] == changed[1:]


class Doubling(Separate):
    """Trains on two views of each row, which it puts into its batch."""

    def training_step(self, batch, batch_idx):
        batch["x"], batch["y"] = (torch.cat([batch[name]] * 2) for name in ("x", "y"))
        return super().training_step(batch, batch_idx)

    def rehearsal_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx)


class Emptying(Toy):
    def features_and_labels(self, batch):
        return batch.pop("x"), batch.pop("y")

    def outputs(self, loss, logits):
        return loss


def test_rows_are_those_that_the_step_was_given():
    pure, doubled = fit(Separate()), fit(Doubling())
    torch.testing.assert_close(pure[0], doubled[0])
    assert pure[2] == doubled[2] == 3 * 2 * 60
    callback = RehearsalCallback(NoRehearsal(), pool=Named(pool()))
    trainer(callback, max_epochs=1).fit(Emptying(), DataLoader(Named(finetune()), 8))
    assert callback.compute_units == 3 * 40


class Detached(Toy):
    def outputs(self, loss, logits):
        return {"loss": loss, "logits": logits.detach()}


class DetachedLosses(Toy):
    def outputs(self, loss, logits):
        return {"loss": loss, "logits": logits, "losses": torch.ones(len(logits))}


@pytest.mark.parametrize(
    ("module", "settings"),
    [
        (Detached, {"rehearsal_weight": 3.0}),
        (DetachedLosses, {"rehearsal_weight": 3.0}),
        (DetachedLosses, {"penalties": [DER(beta=0.5)]}),
        *((Detached, {"penalties": [Distillation(rows=rows)]}) for rows in ("finetune", "rehearsed", "both")),
        *((Detached, {"penalties": [kind(n_samples=5)]}) for kind in (EWC, MAS, KFAC)),
        *((Detached, {"penalties": [kind()]}) for kind in (DER, Flow)),
    ],
)
def test_what_is_detached_cannot_be_acted_on(module, settings):
    callback = RehearsalCallback(Uniform(), pool=pool(), ledger=full_ledger(), **settings)
    with pytest.raises(CaptureError, match=r"no graph\. Return them without `\.detach\(\)`"):
        trainer(callback).fit(module(), DataLoader(finetune(), 8))


def test_what_is_detached_can_be_read():
    callback = RehearsalCallback(Uniform(), pool=pool(), ledger=full_ledger())
    module = Detached()
    trainer(callback).fit(module, DataLoader(finetune(), 8))
    assert len(flat(rehearsed(module))) == 10


def test_batches_whose_rows_cannot_be_counted_are_refused_also_in_two_steps():
    def collate(rows):
        return {
            "edges": torch.zeros(2, 5),
            "x": torch.stack([row["x"] for row in rows]),
            "y": torch.stack([row["y"] for row in rows]),
        }

    callback = RehearsalCallback(Uniform(), pool=Pool(Named(pool()), collate_fn=collate))
    with pytest.raises(JoinError, match=r'got 2 in batch\["edges"\] and 8 in batch\["x"\]'):
        trainer(callback).fit(Separate(), DataLoader(Named(finetune()), 8, collate_fn=collate))


class Showing(Callback):
    """Moves samples to the device where Lightning has begun an epoch, or is about to end it."""

    def __init__(self, sizes):
        self.sizes = sizes

    def show(self, trainer):
        batch = next(iter(DataLoader(finetune(), 8)))
        self.sizes.append(len(trainer.strategy.batch_to_device(batch)[0]))

    def on_train_start(self, trainer, pl_module):
        self.show(trainer)

    def on_train_epoch_start(self, trainer, pl_module):
        self.show(trainer)

    def on_train_epoch_end(self, trainer, pl_module):
        self.show(trainer)


class ShowingItself(Toy):
    def on_train_epoch_start(self):
        batch = next(iter(DataLoader(finetune(), 8)))
        assert len(self.trainer.strategy.batch_to_device(batch)[0]) == 8


@pytest.mark.parametrize("first", [False, True])
def test_batches_that_are_moved_at_the_ends_of_epochs_are_left_alone(first):
    sizes, seen = [], []
    for module, others in ((Toy(), []), (ShowingItself(), [Showing(sizes)])):
        callbacks = [*others, RehearsalCallback(Uniform(), pool=Pool(pool(), lag=1), mix_ratio=0.5)]
        trainer(*callbacks[:: 1 if first else -1], max_epochs=2).fit(module, DataLoader(finetune(), 8))
        seen.append(module.seen)
    assert seen[0] == seen[1]
    assert sizes == [8] * 5
    assert len(flat(seen[0])) == 2 * 60
