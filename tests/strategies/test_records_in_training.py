"""Strategies that go by records, in real runs: what they draw, learn, charge, and resume to."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_mixcd import (
    GDumbMemory,
    Grasp,
    GSSMemory,
    HerdingMemory,
    HighestLoss,
    LeastConfidence,
    LossProportional,
    RehearsalCallback,
    RehearsalDataModule,
    record_ledger,
)
from lightning_mixcd.resume import ExactResume
from tests.toys import N_POOL, Finetune, Toy, flat, ledger, pool, prompt_pool, rehearsed, trainer

# A resumed run writes its checkpoints into a folder of its own.
pytestmark = pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")

# Others are resumed in `tests/integration/test_resume.py`.
STRATEGIES = {
    "loss_refresh": lambda: LossProportional("refresh", every_n_steps=2),
    "highest_refresh": lambda: HighestLoss("refresh", every_n_steps=2, correct_only=True),
    "confidence_ledger": LeastConfidence,
    "confidence_refresh": lambda: LeastConfidence("refresh", every_n_steps=2),
    "gdumb": lambda: GDumbMemory(10),
    "herding": lambda: HerdingMemory(10),
    "gss": lambda: GSSMemory(10),
    "grasp": Grasp,
}


@pytest.fixture(scope="module")
def full_ledger(tmp_path_factory):
    return record_ledger(Toy(), pool(), tmp_path_factory.mktemp("l") / "l", keep=["features", "logits"])


def run(strategy, ledger, folder, *, ckpt_path=None, lr=0.05):
    """Train for ten steps, two epochs, with checkpoints of every third."""
    pl.seed_everything(1, verbose=False)
    module, callback = Toy(lr=lr), RehearsalCallback(strategy)
    data = RehearsalDataModule(
        Finetune(shuffle=True), prompt_pool(), ledger=ledger, mix_ratio=0.5, order_seed=2
    )
    keep = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    fit = trainer(callback, ExactResume(), keep, max_epochs=2, enable_checkpointing=True)
    fit.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module, callback


@pytest.mark.parametrize("name", STRATEGIES)
def test_resumed_run_draws_what_an_uninterrupted_one_draws(name, full_ledger, tmp_path):
    whole, callback = run(STRATEGIES[name](), full_ledger, tmp_path / "whole")
    assert [len(step) for step in rehearsed(whole)] == [4] * 10
    resumed, again = run(
        STRATEGIES[name](), full_ledger, tmp_path / "resumed", ckpt_path=tmp_path / "whole" / "step=3.ckpt"
    )
    assert rehearsed(resumed) == rehearsed(whole)[3:]
    assert again.compute_units == callback.compute_units


def test_passes_over_the_pool_are_charged(full_ledger, tmp_path):
    free, paid = (
        run(HighestLoss(source, every_n_steps=3), full_ledger, tmp_path / source)[1].compute_units
        for source in ("ledger", "refresh")
    )
    assert paid - free == 3 * N_POOL


def test_last_seen_losses_of_a_model_that_stands_still_are_those_of_the_ledger(tmp_path):
    strategy = LossProportional()
    run(strategy, ledger(), tmp_path, lr=0.0)
    np.testing.assert_allclose(strategy.signal(), ledger().loss, rtol=1e-4, atol=1e-5)


def test_last_seen_losses_are_those_of_the_rehearsed_rows(tmp_path):
    strategy = LossProportional()
    module, _ = run(strategy, ledger(), tmp_path)
    changed = (strategy.signal() - torch.tensor(ledger().loss)).abs() > 1e-4
    assert changed.any()
    assert {*changed.nonzero().flatten().tolist()} <= {*flat(rehearsed(module))}


def test_memory_is_all_that_is_rehearsed(full_ledger, tmp_path):
    assert len({*flat(rehearsed(run(GDumbMemory(7), full_ledger, tmp_path)[0]))}) == 7


def test_column_that_lacks_is_asked_for_at_setup(tmp_path):
    with pytest.raises(ValueError, match=r"`ledger` must have .* column `features`"):
        run(Grasp(), ledger(), tmp_path)
