"""A run with a penalty that is resumed is the run that was not."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_mixcd import (
    ExactResume,
    MixCD,
    Pool,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    UniformCorrect,
)
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.penalties import AGEM, DER, GEM, Distillation, Flow
from tests.penalties.replay import ledger_with_logits
from tests.toys import Finetune, Toy, pool, trainer

# Made anew for each run: what one of them has learnt, the next must have from the checkpoint.
RUNS = {
    "lwf": lambda: (Uniform(), [Distillation(2.0)]),
    "two": lambda: (Uniform(), [Distillation(), DER()]),
    "lwf and kd": lambda: (MixCD(), [Distillation(2.0, rows="both")]),
    "der++ and lwf": lambda: (MixCD(), [DER(beta=0.5), Distillation()]),
    "a-gem and lwf": lambda: (UniformCorrect(), [AGEM(), Distillation()]),
    "gem": lambda: (Uniform(), [GEM(ByLabel())]),
    "flow": lambda: (Uniform(), [Flow()]),
}


def run(name, *callbacks, ckpt_path=None, **settings):
    strategy, penalties = RUNS[name]()
    pl.seed_everything(1, verbose=False)
    module = Toy(dropout=0.2)
    data = RehearsalDataModule(
        Finetune(shuffle=True), Pool(pool(), lag=2), mix_ratio=0.5, ledger=ledger_with_logits(), order_seed=3
    )
    rehearsal = RehearsalCallback(strategy, penalties=penalties)
    fit = trainer(rehearsal, ExactResume(), *callbacks, max_epochs=2, **settings)
    fit.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module.state_dict(), rehearsal.compute_units


# The resumed run keeps no checkpoints, which Lightning warns of.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
@pytest.mark.parametrize("name", RUNS)
def test_resumed_run_is_the_same(name, tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole, units = run(name, keep, enable_checkpointing=True)
    kept = torch.load(tmp_path / "step=3.ckpt", weights_only=True)
    assert len(kept["callbacks"]["RehearsalCallback"]["penalties"]) == len(RUNS[name]()[1])
    for step in (3, 7):
        resumed, units_then = run(name, ckpt_path=tmp_path / f"step={step}.ckpt")
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items())
        assert units_then == units


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_resuming_with_other_penalties_is_refused(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    run("lwf", keep, enable_checkpointing=True)
    with pytest.raises(ValueError, match=r"must keep .* `penalties` 'Distillation', got 'Distillation, DER'"):
        run("two", ckpt_path=tmp_path / "step=3.ckpt")
