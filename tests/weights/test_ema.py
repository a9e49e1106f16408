"""Lightning's own averages of weights beside rehearsal."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging

from lightning_mixcd import ExactResume, MixCD, RehearsalCallback, RehearsalDataModule
from lightning_mixcd.weights import soup
from tests.toys import Finetune, OnBatchEnd, Toy, ledger, pool, rehearsed, trainer

ORDERS = [lambda ema, ours: [ema, *ours], lambda ema, ours: [*ours, ema]]


def run(ema, *callbacks, order=ORDERS[0], ckpt_path=None, **settings):
    pl.seed_everything(1, verbose=False)
    module = Toy(dropout=0.2)
    data = RehearsalDataModule(Finetune(shuffle=True), pool(), ledger=ledger(), mix_ratio=0.5, order_seed=3)
    ours = [RehearsalCallback(MixCD()), ExactResume(), *callbacks]
    callbacks = order(ema, ours) if ema else ours
    trainer(*callbacks, max_epochs=2, **settings).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module


def states(folder):
    """What was trained, after each step, without any average."""
    found = []
    run(None, OnBatchEnd(lambda t, m, o, b: found.append({k: v.clone() for k, v in m.state_dict().items()})))
    return found


@pytest.mark.parametrize("order", ORDERS)
def test_average_is_that_of_the_rehearsed_run_which_it_does_not_change(tmp_path, order):
    steps = states(tmp_path)
    average = steps[0]
    for state in steps[1:]:
        average = {k: 0.8 * average[k] + 0.2 * state[k] for k in state}
    module = run(EMAWeightAveraging(decay=0.8), order=order)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, average[name])
    assert rehearsed(module) == rehearsed(run(None))


def test_plain_average_is_the_soup_of_all_steps(tmp_path):
    module, mean = run(WeightAveraging()), soup(states(tmp_path))
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, mean[name])


# The resumed run keeps no checkpoints, which Lightning warns of.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("cut", [2, 5, 7])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, order, cut):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(EMAWeightAveraging(decay=0.8), keep, order=order, enable_checkpointing=True)
    resumed = run(EMAWeightAveraging(decay=0.8), order=order, ckpt_path=tmp_path / f"step={cut}.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert rehearsed(whole)[cut:] == rehearsed(resumed)
