"""`adapter=...`: a run with an adapter leaves a record and a module like any other."""

import pytest

from lightning_mixcd.app.finetune import train
from lightning_mixcd.report.records import read_records
from tests.app.composing import composed

SHORT = ["strategy=uniform", "base.max_epochs=1", "trainer.max_epochs=1", "wise_ft=[0]"]
ADAPTERS = ["none", "selective_lora"]
HEAD, LAYER, BLOCK = 64 * 10 + 10, 64 * 64 + 64, 8 * (64 + 64)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for adapter in ADAPTERS:
        train(composed(folder / adapter, f"adapter={adapter}", *SHORT))
    found = read_records(folder)
    return {(path.relative_to(folder).parts[0], record.alpha): record for path, record in found.items()}


def test_the_name_tells_the_adapter(records):
    names = {adapter: record.name for (adapter, _), record in records.items()}
    assert names == {"none": "uniform+wise_ft", "selective_lora": "uniform+selective_lora+wise_ft"}


def test_parameters_are_recorded(records):
    counts = {
        key: (r.trainable_parameters, r.active_parameters) for (key, at), r in records.items() if at == 1
    }
    assert counts["none"] == (HEAD + LAYER,) * 2
    # The one score is trained, and does not act itself.
    assert counts["selective_lora"] == (HEAD + BLOCK + 1, HEAD + BLOCK)
    assert records["selective_lora", 1].active_blocks == ("network.features.1",)


def test_points_on_the_way_back_begin_at_one_base_model(records):
    """An adapter is merged at the end, so its weights lie on a line with those of the base model."""
    for task in ("prior_accuracy", "new_accuracy"):
        assert len({getattr(records[adapter, 0], task) for adapter in ADAPTERS}) == 1
    assert {alpha for _, alpha in records} == {0, 1}
