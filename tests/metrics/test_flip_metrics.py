"""Metrics of flips in training, and any cut into batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from lightning_mixcd import metrics
from lightning_mixcd.functional import flips
from tests.metrics.test_every_metric import BASE_CORRECT, CORRECT


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_any_cut_into_batches_is_one(sizes, seed):
    generator = torch.Generator().manual_seed(seed)
    base_correct, correct = torch.rand(2, sum(sizes), generator=generator) < 0.5
    metric = metrics.Forgetting()
    for batch in zip(base_correct.split(sizes), correct.split(sizes), strict=True):
        metric.update(*batch)
    assert torch.equal(metric.table, flips.flip_table(base_correct, correct))


def test_bad_input_is_refused_by_the_twin():
    with pytest.raises(TypeError, match=r"`correct` must be a bool tensor, got torch.int64\. Compare"):
        metrics.Forgetting().update(BASE_CORRECT, CORRECT.long())


class LoggedFlips(LightningModule):
    def __init__(self):
        super().__init__()
        self.damage, self.units = metrics.CollateralDamageRate(), metrics.ComputeUnits()

    def validation_step(self, batch, batch_idx):
        self.damage.update(*batch)
        self.units.update(len(batch[0]), 0)
        self.log("damage", self.damage)
        self.log("units", self.units)


def test_metrics_can_be_logged(tmp_path):
    loader = DataLoader(list(zip(BASE_CORRECT, CORRECT, strict=True)), batch_size=4)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    model = LoggedFlips()
    for _ in range(2):
        (logged,) = trainer.validate(model, loader, verbose=False)
        assert logged["damage"] == flips.collateral_damage_rate(BASE_CORRECT, CORRECT).item()
        assert logged["units"] == len(CORRECT)
