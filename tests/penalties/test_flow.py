"""FLOW in training, against a plain loop."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixcd import ExactResume, NoRehearsal, RehearsalCallback, RehearsalDataModule, Uniform
from lightning_mixcd.penalties import Flow
from tests.toys import Finetune, Toy, base_state, finetune, network, pool, rehearsed, trainer


def net():
    with torch.random.fork_rng():
        made = network()
    made.load_state_dict(base_state())
    return made


def slow(batches, *, tau):
    """Weights after training on (finetune rows, pool rows) with weighted losses, one row at a time."""
    base, module = net(), net()
    optimizer = torch.optim.Adam(module.parameters(), 0.05)
    for new, old in batches:
        with torch.no_grad():
            base_losses = [float(cross_entropy(base(x[None]), y[None])) for x, y in new]
        scale = sorted(base_losses)[(len(base_losses) - 1) // 2] if tau is None else tau
        total = sum(
            torch.exp(torch.tensor(-loss / scale)) * cross_entropy(module(x[None]), y[None])
            for loss, (x, y) in zip(base_losses, new, strict=True)
        )
        total = total + sum(cross_entropy(module(x[None]), y[None]) for x, y in old)
        optimizer.zero_grad()
        (total / (len(new) + len(old))).backward()
        optimizer.step()
    return module.state_dict()


@pytest.mark.parametrize("tau", [None, 0.7])
@pytest.mark.parametrize("strategy", [Uniform, NoRehearsal])
def test_as_a_loop_over_rows(tau, strategy):
    module = Toy()
    callback = RehearsalCallback(strategy(), pool=pool(), mix_ratio=0.5, penalties=[Flow(tau)])
    trainer(callback).fit(module, DataLoader(finetune(), 8))
    (x, y), (px, py) = finetune().tensors, pool().tensors
    batches = [
        (
            [(x[i, :-1], y[i]) for i in range(8 * step, 8 * step + 8)],
            [(px[i, :-1], py[i]) for i in indices],
        )
        for step, indices in enumerate(rehearsed(module))
    ]
    assert len(batches) == 5
    for name, value in slow(batches, tau=tau).items():
        torch.testing.assert_close(module.net.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_base_forwards_are_counted():
    plain, flow = (
        RehearsalCallback(Uniform(), pool=pool(), mix_ratio=0.5, penalties=p) for p in ([], [Flow()])
    )
    for callback in (plain, flow):
        trainer(callback).fit(Toy(), DataLoader(finetune(), 8))
    assert flow.compute_units - plain.compute_units == 40


# The resumed run keeps no checkpoints, which Lightning warns of.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_resumed_run_weighs_by_the_base_model(tmp_path):
    def run(*callbacks, ckpt_path=None, **settings):
        pl.seed_everything(1, verbose=False)
        module = Toy()
        data = RehearsalDataModule(Finetune(), pool(), mix_ratio=0.5, order_seed=3)
        rehearsal = RehearsalCallback(Uniform(), penalties=[Flow()])
        trainer(rehearsal, ExactResume(), *callbacks, **settings).fit(
            module, datamodule=data, ckpt_path=ckpt_path
        )
        return copy.deepcopy(module.state_dict())

    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = run(keep, enable_checkpointing=True)
    resumed = run(ckpt_path=tmp_path / "step=3.ckpt")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.mark.parametrize("tau", [0, -1.0, float("nan")])
def test_bad_temperature_is_refused(tau):
    with pytest.raises(
        ValueError, match=rf"`tau` must be above 0, got {tau}\. None takes the median of each"
    ):
        Flow(tau)
