"""A run on an accelerator is the run on the CPU: no part of it stays behind on the host."""

from contextlib import nullcontext
from functools import partial

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_mixcd import (
    ExactResume,
    Pool,
    Readout,
    RehearsalCallback,
    RehearsalDataModule,
)
from lightning_mixcd.adapters import DIKI, LoRA, SelectiveLoRA
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.penalties import AGEM, DER, EWC, GEM, KFAC, L2SP, MAS, Distillation, Flow
from lightning_mixcd.schedules import HoldRetention, ModelTime
from lightning_mixcd.weights import HeadFirst
from tests.adapters.test_diki import Module as Encoder
from tests.adapters.test_diki import task
from tests.elsewhere import DEVICE, Elsewhere, other_device
from tests.integration.test_separate import TwoHeads
from tests.penalties.replay import full_ledger
from tests.soak.chancy import STRATEGIES
from tests.toys import Finetune, Listed, Toy, pool, trainer

BESIDE = {
    "hold_retention": lambda: {"schedule": HoldRetention(0.9, gain=2)},
    "model_time": lambda: {"schedule": ModelTime(1, burst=2, lag=2)},
    "tolerance": lambda: {"readout": Readout(tolerance=0.2)},
    "weight": lambda: {"rehearsal_weight": 0.5},
    "ewc": lambda: {"penalties": [EWC(n_samples=20)]},
    "kfac_mas": lambda: {"penalties": [KFAC(n_samples=20), MAS(n_samples=20)]},
    "l2sp_flow": lambda: {"penalties": [L2SP(), Flow()]},
    "distillation_der": lambda: {"penalties": [Distillation(rows="both"), DER(beta=0.5)]},
    "gem": lambda: {"penalties": [GEM(ByLabel())]},
    "agem": lambda: {"penalties": [AGEM()]},
}


CALLBACKS = {
    "lora": lambda: LoRA(rank=2),
    "selective_lora": lambda: SelectiveLoRA(rank=2, warmup_steps=2),
    "head_first": lambda: HeadFirst("net.3", steps=3),
}


def run(device, strategy, *callbacks, module=Toy, beside=dict, seed=1, ckpt_path=None):
    """What was rehearsed, what was logged and where the weights are after two epochs of five steps."""
    pl.seed_everything(seed, verbose=False)
    trained, logger = module(), Listed()
    data = RehearsalDataModule(
        Finetune(shuffle=True), Pool(pool(), lag=4), mix_ratio=0.5, ledger=full_ledger(), order_seed=3
    )
    with device as there:
        trainer(
            RehearsalCallback(STRATEGIES[strategy](), **beside()),
            ExactResume(),
            *callbacks,
            strategy=there or "auto",
            accelerator="cpu" if there is None else "auto",
            max_epochs=2,
            logger=logger,
            log_every_n_steps=1,
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        ).fit(trained, datamodule=data, ckpt_path=ckpt_path)
        weights = {name: value.cpu() for name, value in trained.state_dict().items()}
    return trained.seen, logger.rows, weights


def check_alike(found, expected):
    assert len(found[0]) > 0
    assert found[0] == expected[0][-len(found[0]) :]
    # Some processors round a copy of other strides in another way.
    for (step, row), (expected_step, expected_row) in zip(
        found[1], expected[1][-len(found[1]) :], strict=True
    ):
        assert step == expected_step
        assert row == pytest.approx(expected_row, rel=1e-4, abs=1e-6, nan_ok=True)
    torch.testing.assert_close(found[2], expected[2], rtol=1e-4, atol=1e-6)


# The resumed run keeps no checkpoints, which Lightning warns of.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_rehearses_the_same_there(strategy, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    here = run(nullcontext(), strategy, keep)
    check_alike(run(other_device(), strategy), here)
    check_alike(run(other_device(), strategy, ckpt_path=tmp_path / "step=6.ckpt", seed=99), here)


@pytest.mark.parametrize("module", [Toy, TwoHeads])
@pytest.mark.parametrize("beside", BESIDE)
def test_so_does_every_other_part(beside, module):
    train = partial(run, strategy="uniform_correct", module=module, beside=BESIDE[beside])
    check_alike(train(other_device()), train(nullcontext()))


@pytest.mark.parametrize("name", CALLBACKS)
def test_so_does_what_is_added_to_the_module(name):
    there, here = (run(device, "mixcd", CALLBACKS[name]()) for device in (other_device(), nullcontext()))
    check_alike(there, here)


def test_branches_learn_the_same_there():
    found = []
    for device in (other_device(), nullcontext()):
        pl.seed_everything(1, verbose=False)
        module = Encoder()
        with device as there:
            settings = {"accelerator": "auto", "strategy": there} if there else {}
            trainer(DIKI("one", length=4), **settings).fit(module, DataLoader(task(1), batch_size=20))
            found.append({name: parameter.cpu() for name, parameter in module.named_parameters()})
    # Attention has another kernel there, and Adam makes much of its rounding: a step is 0.05.
    torch.testing.assert_close(*found, atol=1e-3, rtol=0)


def test_what_would_fail_on_an_accelerator_fails_there():
    with other_device():
        x, mask = torch.ones(3, device=DEVICE), torch.tensor([True, False, True], device=DEVICE)
        assert isinstance(x[mask], Elsewhere)
        assert (x * torch.tensor(2.0)).tolist() == [2, 2, 2]
        assert x[torch.tensor([0, 1])].cpu().tolist() == [1, 1]
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.ones(3)[mask]
        with pytest.raises(TypeError, match="no float64"):
            x.double()
