"""Every metric of flips against its functional twin, in every way that torchmetrics is used."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from torch import distributed, multiprocessing
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from lightning_mixcd import metrics
from lightning_mixcd.functional import flips

TWINS = {
    metrics.CollateralDamageRate: flips.collateral_damage_rate,
    metrics.Retention: flips.retention,
    metrics.NegativeFlipRate: flips.negative_flip_rate,
    metrics.PositiveFlipRate: flips.positive_flip_rate,
    metrics.Forgetting: flips.forgetting,
}
LOW_IS_BETTER = {metrics.CollateralDamageRate, metrics.NegativeFlipRate, metrics.Forgetting}
# 5 right and right, 3 right and wrong, 1 wrong and right, 2 wrong and wrong, in mixed order.
BASE_CORRECT = torch.tensor([1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1], dtype=torch.bool)
CORRECT = torch.tensor([1, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0], dtype=torch.bool)
every_metric = pytest.mark.parametrize("kind", list(TWINS), ids=lambda kind: kind.__name__)


def pickle_and_back(metric):
    return pickle.loads(pickle.dumps(metric))  # noqa: S301 - its own pickle


def test_every_metric_is_tested():
    public = [getattr(metrics, name) for name in metrics.__all__]
    flips_only = {kind for kind in public if issubclass(kind, metrics.FlipMetric)}
    assert set(TWINS) == flips_only - {metrics.FlipMetric}


@every_metric
class TestEveryMetric:
    def test_many_batches_are_one(self, kind):
        metric = kind()
        for rows in (slice(0, 4), slice(4, 4), slice(4, 11)):
            metric.update(BASE_CORRECT[rows], CORRECT[rows])
        assert torch.equal(metric.compute(), TWINS[kind](BASE_CORRECT, CORRECT))

    @given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
    def test_any_cut_into_batches_is_one(self, kind, sizes, seed):
        generator = torch.Generator().manual_seed(seed)
        base_correct, correct = torch.rand(2, sum(sizes), generator=generator) < 0.5
        metric = kind()
        for batch in zip(base_correct.split(sizes), correct.split(sizes), strict=True):
            metric.update(*batch)
        torch.testing.assert_close(
            metric.compute(), TWINS[kind](base_correct, correct), rtol=0, atol=0, equal_nan=True
        )

    def test_forward_gives_the_batch_and_keeps_the_whole(self, kind):
        metric = kind()
        metric(BASE_CORRECT[:6], CORRECT[:6])
        of_batch = metric(BASE_CORRECT[6:], CORRECT[6:])
        assert torch.equal(of_batch, TWINS[kind](BASE_CORRECT[6:], CORRECT[6:]))
        assert torch.equal(metric.compute(), TWINS[kind](BASE_CORRECT, CORRECT))

    def test_reset_forgets(self, kind):
        metric = kind()
        metric.update(~BASE_CORRECT, CORRECT)
        metric.reset()
        metric.update(BASE_CORRECT, CORRECT)
        assert torch.equal(metric.compute(), TWINS[kind](BASE_CORRECT, CORRECT))

    @pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
    def test_before_the_first_batch_it_is_nan(self, kind):
        assert kind().compute().isnan()

    @pytest.mark.parametrize("copy", [pickle_and_back, lambda metric: metric.clone()])
    def test_copies_carry_the_counts_and_go_their_own_way(self, kind, copy):
        metric = kind()
        metric.update(BASE_CORRECT[:6], CORRECT[:6])
        other = copy(metric)
        other.update(BASE_CORRECT[6:], CORRECT[6:])
        assert torch.equal(other.compute(), TWINS[kind](BASE_CORRECT, CORRECT))
        assert torch.equal(metric.compute(), TWINS[kind](BASE_CORRECT[:6], CORRECT[:6]))

    def test_state_is_saved_when_asked_for(self, kind):
        metric, other = kind(), kind()
        metric.persistent(True)
        other.persistent(True)
        metric.update(BASE_CORRECT, CORRECT)
        other.load_state_dict(metric.state_dict())
        other.update(BASE_CORRECT[:0], CORRECT[:0])
        assert torch.equal(other.compute(), TWINS[kind](BASE_CORRECT, CORRECT))

    def test_half_precision_does_not_touch_the_counts(self, kind):
        metric = kind().half()
        metric.update(BASE_CORRECT, CORRECT)
        assert torch.equal(metric.compute(), TWINS[kind](BASE_CORRECT, CORRECT))

    def test_inference_mode_may_end_between_batches(self, kind):
        metric = kind()
        with torch.inference_mode():
            metric.reset()
            metric.update(BASE_CORRECT[:6], CORRECT[:6])
        metric.update(BASE_CORRECT[6:], CORRECT[6:])
        assert torch.equal(metric.compute(), TWINS[kind](BASE_CORRECT, CORRECT))

    def test_facts_are_declared(self, kind):
        assert kind.higher_is_better is (kind not in LOW_IS_BETTER)
        assert kind.is_differentiable is False
        assert kind.full_state_update is False

    def test_bad_input_is_refused_by_the_twin(self, kind):
        with pytest.raises(TypeError, match=r"`correct` must be a bool tensor, got torch.int64\. Compare"):
            kind().update(BASE_CORRECT, CORRECT.long())


def test_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        metrics.FlipMetric()


def test_a_collection_updates_the_shared_counts_once():
    collection = MetricCollection([kind() for kind in TWINS], prefix="pool/")
    for rows in (slice(0, 6), slice(6, 11)):
        collection.update(BASE_CORRECT[rows], CORRECT[rows])
    assert len(collection.compute_groups) == 1
    expected = {f"pool/{kind.__name__}": twin(BASE_CORRECT, CORRECT) for kind, twin in TWINS.items()}
    assert collection.compute() == expected


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


def write_what_a_rank_sees(rank, folder):
    store = distributed.FileStore(str(folder / "store"), 2)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    collection = MetricCollection([kind() for kind in TWINS])
    collection.update(BASE_CORRECT[rank::2], CORRECT[rank::2])
    units = metrics.ComputeUnits()
    units.update(10**15 + rank, rank)
    seen = {name: value.item() for name, value in {**collection.compute(), "units": units.compute()}.items()}
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))
    distributed.destroy_process_group()


# The children run only tiny operations, so the threads that a fork loses are not missed; to spawn
# them would import torch twice, which takes most of half a minute on two cores.
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_two_processes_are_one(tmp_path):
    multiprocessing.start_processes(write_what_a_rank_sees, args=(tmp_path,), nprocs=2, start_method="fork")
    expected = {kind.__name__: twin(BASE_CORRECT, CORRECT).item() for kind, twin in TWINS.items()}
    expected["units"] = 2 * 10**15 + 1 + 2
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected
