"""The head alone for a while, then everything."""

from itertools import pairwise

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lightning_mixcd import ExactResume, MixCD, RehearsalCallback, RehearsalDataModule
from lightning_mixcd.adapters import LoRA
from lightning_mixcd.weights import HeadFirst
from tests.toys import Finetune, OnBatchEnd, Toy, finetune, ledger, pool, trainer

HEAD = "net.3"


class Normed(Toy):
    """With batch normalisation between the layers and a schedule of the learning rate."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.net[1] = nn.BatchNorm1d(8)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), 0.05, weight_decay=0.5)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


def snapshots(module, *callbacks, **settings):
    """State before training and after every batch."""
    states = [{k: v.clone() for k, v in module.state_dict().items()}]

    def note(trainer, pl_module, outputs, batch):
        states.append({k: v.clone() for k, v in pl_module.state_dict().items()})

    trainer(*callbacks, OnBatchEnd(note), **settings).fit(module, DataLoader(finetune(), 8))
    return states


def moved(one, two):
    """Names of what differs."""
    return {name for name in one if not torch.equal(one[name], two[name])}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_only_the_head_moves_first_and_then_everything(accumulate):
    module = Normed()
    states = snapshots(
        module,
        HeadFirst(HEAD, steps=3),
        max_epochs=2,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=1,
    )
    by_batch = [moved(a, b) for a, b in pairwise(states)]
    # Five batches to an epoch, the last of them a step of its own where two are accumulated.
    ends = [i for i in range(10) if accumulate == 1 or i % 5 in {1, 3, 4}]
    head = {f"{HEAD}.weight", f"{HEAD}.bias"}
    for i, names in enumerate(by_batch):
        if i <= ends[2]:
            assert names == (head if i in ends else set())
        elif i in ends:
            assert names == set(module.state_dict())


def test_frozen_features_are_the_base_models():
    # A head trained on features that were computed once.
    module = Toy(lr=0.01)
    plain = Toy(lr=0.01)
    features = plain.net[:3]
    optimizer = torch.optim.Adam(plain.net[3].parameters(), 0.01)
    for batch in DataLoader(finetune(), 8):
        with torch.no_grad():
            x = features(batch[0][:, :-1])
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain.net[3](x), batch[1]).backward()
        optimizer.step()
    snapshots(module, HeadFirst(HEAD, steps=5))
    torch.testing.assert_close(module.net[3].weight, plain.net[3].weight)
    assert all(p.requires_grad for p in module.parameters())


def test_what_was_frozen_before_stays_frozen():
    module = Normed()
    module.net[0].bias.requires_grad_(False)
    module.net[1].eval()
    snapshots(module, HeadFirst(HEAD, steps=2))
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["net.0.bias"]
    assert not module.net[1].training


@pytest.mark.parametrize("fails", [False, True])
def test_module_is_left_as_it_was(fails):
    module = Normed()

    def fail(trainer, *args):
        if fails and trainer.global_step == 2:
            raise RuntimeError("on purpose")

    try:
        snapshots(module, HeadFirst(HEAD, steps=100), OnBatchEnd(fail))
    except RuntimeError as error:
        assert "on purpose" in str(error)  # noqa: PT017
    assert all(p.requires_grad for p in module.parameters())
    assert all(part.training for part in module.modules())


def test_normalisation_stays_in_eval_after_a_validation():
    module, modes = Normed(), []
    watch = OnBatchEnd(lambda t, m, o, b: modes.append(m.net[1].training))
    run = trainer(HeadFirst(HEAD, steps=3), watch, val_check_interval=1)
    run.fit(module, DataLoader(finetune(), 8), DataLoader(finetune(), 20))
    assert modes == [False] * 3 + [True] * 2


# The resumed run keeps no checkpoints, which Lightning warns of.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("cut", [2, 4, 7])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, cut):
    def run(*callbacks, ckpt_path=None, **settings):
        pl.seed_everything(1, verbose=False)
        module = Normed()
        data = RehearsalDataModule(Finetune(), pool(), ledger=ledger(), mix_ratio=0.5, order_seed=3)
        callbacks = [HeadFirst(HEAD, steps=4), RehearsalCallback(MixCD()), ExactResume(), *callbacks]
        trainer(*callbacks, max_epochs=2, **settings).fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module.state_dict()

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(keep, enable_checkpointing=True)
    assert not moved(whole, run(ckpt_path=tmp_path / f"step={cut}.ckpt"))


@pytest.mark.parametrize("head", ["nonsense", "net.2"])
def test_head_without_parameters_is_refused(head):
    with pytest.raises(
        ValueError, match=rf"must name a submodule with parameters, got '{head}'\. There are: net"
    ):
        snapshots(Toy(), HeadFirst(head, steps=2))


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match=r"`steps` must be at least 1, got 0\. Leave the callback"):
        HeadFirst(HEAD, steps=0)


@pytest.mark.parametrize("step", [1, -1])
def test_statistics_that_an_adapter_holds_stay_held(step):
    module, callbacks = Normed(), [LoRA(rank=2), HeadFirst(HEAD, steps=2)]
    trainer(*callbacks[::step]).fit(module, DataLoader(finetune(), 8))
    assert module.net[1].num_batches_tracked == 0
    assert module.net[1].training
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_head_may_be_named_by_any_of_its_names():
    module = Toy()
    module.other = module.net[3]
    states = snapshots(module, HeadFirst("other", steps=9))
    assert {name.rpartition(".")[0] for name in moved(states[0], states[-1])} == {HEAD, "other"}
