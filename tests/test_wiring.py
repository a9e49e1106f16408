"""Standing before a batch hook: on whose object, in which stage, and put back in any order."""

import copy
import itertools
import pickle

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_mixcd.wiring import BatchHook, StepHook, own_hook
from tests.toys import Finetune, Toy, finetune, trainer

NAME = "on_after_batch_transfer"


class Hooked(Toy):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [*batch, "module"]


class HookedData(Finetune):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [*batch, "datamodule"]


class Stub:
    """What a hook asks of a trainer."""

    def __init__(self, datamodule=None, *, training=True):
        self.datamodule, self.training = datamodule, training


def tagged(tag):
    return lambda batch: [*batch, tag]


@pytest.mark.parametrize(
    ("module", "datamodule", "expected"),
    [
        (Toy(), None, ["ours"]),
        (Toy(), Finetune(), ["ours"]),
        (Hooked(), None, ["ours", "module"]),
        (Hooked(), Finetune(), ["ours", "module"]),
        (Toy(), HookedData(), ["ours", "datamodule"]),
        (Hooked(), HookedData(), ["ours", "datamodule"]),
    ],
)
def test_transform_comes_first_on_the_object_that_lightning_asks(module, datamodule, expected):
    hook = BatchHook(Stub(datamodule), module, tagged("ours"))
    asked = hook.owner
    assert asked is (datamodule if isinstance(datamodule, HookedData) else module)
    assert getattr(asked, NAME)([], 0) == expected
    hook.undo()
    assert getattr(asked, NAME)([], 0) == expected[1:]
    assert NAME not in asked.__dict__


def test_other_stages_are_left_alone():
    module = Hooked()
    BatchHook(Stub(training=False), module, tagged("ours"))
    assert module.on_after_batch_transfer([], 0) == ["module"]


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("own", [False, True])
def test_several_on_one_hook_are_undone_in_any_order(order, own):
    module = Toy()
    if own:
        module.on_after_batch_transfer = lambda batch, dataloader_idx: [*batch, "own"]
    before = module.__dict__.get(NAME)
    hooks = [BatchHook(Stub(), module, tagged(n)) for n in range(3)]
    left = {0, 1, 2}
    for n in order:
        hooks[n].undo()
        left.remove(n)
        assert module.on_after_batch_transfer([], 0) == sorted(left, reverse=True) + ["own"] * own
    assert module.__dict__.get(NAME) is before
    hooks[0].undo()  # twice is once
    assert module.__dict__.get(NAME) is before


def test_own_hook_sees_through_ours_and_not_through_the_users_decorators():
    module = Hooked()
    BatchHook(Stub(), module, tagged(1))
    BatchHook(Stub(), module, tagged(2))
    assert own_hook(Stub(), module, NAME)([], 0) == ["module"]


# Lightning warns where both override the hook; with ours on top it must see what the user wrote, no more.
def test_lightning_does_not_take_ours_for_an_override():
    class Standing(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            self.hooks = [BatchHook(trainer, pl_module, lambda batch: batch) for _ in range(2)]

    standing = Standing()
    trainer(standing).fit(Toy(), datamodule=Finetune())
    assert all(hook.trainer.datamodule is not None for hook in standing.hooks)


def test_transform_sees_training_batches_only():
    seen = []

    class Standing(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            self.hook = BatchHook(trainer, pl_module, lambda batch: seen.append(len(batch[0])) or batch)

    run = trainer(Standing(), max_epochs=2, num_sanity_val_steps=-1)
    module = Toy()
    run.fit(module, DataLoader(finetune(), 20), DataLoader(finetune(), 10))
    assert seen == [20] * 4
    run.validate(module, DataLoader(finetune(), 10), verbose=False)
    assert seen == [20] * 4


@pytest.mark.parametrize("name", ["on_before_batch_transfer", "on_after_batch_transfer"])
def test_what_the_transform_returns_is_trained_on(name):
    class Standing(pl.Callback):
        def setup(self, trainer, pl_module, stage):
            BatchHook(
                trainer, pl_module, lambda batch: [torch.cat([part, part]) for part in batch], name=name
            )

    module = Toy()
    trainer(Standing()).fit(module, DataLoader(finetune(), 20))
    assert module.seen == [[*range(20)] * 2, [*range(20, 40)] * 2]


def unpickled(module):
    return pickle.loads(pickle.dumps(module))  # noqa: S301 -- our own


@pytest.mark.parametrize("copied", [copy.deepcopy, unpickled])
def test_copy_of_a_hooked_module_is_as_without_hooks(copied):
    module, stub = Hooked(), Stub()
    stub.iterator = (i for i in ())  # which nobody can copy
    BatchHook(stub, module, tagged("ours"))
    StepHook(module, lambda noted, outputs, *_: None)
    other = copied(module)
    assert other.on_after_batch_transfer([], 0) == ["module"]
    assert other.training_step.__func__ is Toy.training_step
    assert other.training_step.__self__ is other


def test_module_may_call_its_own_step_by_name():
    class ByName(Toy):
        def validation_step(self, batch, batch_idx):
            return self.training_step(batch=batch, batch_idx=batch_idx)

    module, changed = ByName(), []
    StepHook(module, lambda noted, outputs, *given: changed.append(given) or outputs)
    trainer().fit(module, DataLoader(finetune(), 20), DataLoader(finetune(), 40))
    assert len(module.seen) == 2
    assert [len(batch[0]) for batch, _ in changed] == [40, 20, 20, 40]
