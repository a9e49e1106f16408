"""`adapter=...`: a run with an adapter leaves a record and a module like any other."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from lightning_mixcd.app.conf import conf_dir
from lightning_mixcd.app.train import train
from lightning_mixcd.report.records import read_records

SHORT = ["strategy=uniform", "base.max_epochs=1", "trainer.max_epochs=1", "trainer=cpu", "wise_ft=[0]"]
ADAPTERS = ["none", "selective_lora"]
HEAD, LAYER, BLOCK = 64 * 10 + 10, 64 * 64 + 64, 8 * (64 + 64)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for adapter in ADAPTERS:
        given = [f"adapter={adapter}", f"base_dir={folder}/base", *SHORT, "trainer.enable_progress_bar=false"]
        with initialize_config_dir(conf_dir(), version_base="1.3"):
            given += [f"hydra.runtime.output_dir={folder}/{adapter}"]
            config = compose("train", given, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        config.logger.save_dir = f"{folder}/{adapter}"
        train(config)
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
