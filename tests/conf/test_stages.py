"""Every option of `stages` makes datamodules that can follow one another."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningDataModule

from lightning_mixcd import union_pool
from lightning_mixcd.app.conf import conf_dir, make
from lightning_mixcd.tasks import embedded_text

CONF = Path(conf_dir())
# Which experiment brings the model for the tasks.
EXPERIMENTS = {"digits": "chain", "images": "chain_images", "texts": "chain_texts"}


def test_every_option_has_an_experiment():
    assert {*EXPERIMENTS} == {path.stem for path in (CONF / "stages").glob("*.yaml")}


@pytest.mark.parametrize(("option", "experiment"), EXPERIMENTS.items())
def test_tasks_share_batches_and_the_outputs_of_the_model(monkeypatch, option, experiment):
    monkeypatch.setattr(embedded_text, "embed", lambda texts, *_, **__: np.zeros((len(texts), 384)))
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}"], return_hydra_config=True)
    assert config.hydra.runtime.choices.stages == option
    if option != "digits" and not Path(config.data_dir).is_dir():
        pytest.skip(f"there is no folder of data sets at {config.data_dir}; set MIXCD_DATA")
    tasks = make(config.stages)
    assert len(tasks) == 4
    assert all(isinstance(task, LightningDataModule) for task in tasks.values())
    pool, _ = union_pool({name: task.train for name, task in tasks.items()})
    module = make(config.model)
    labels = [task.train.tensors[1] for task in tasks.values()]
    for label, task in zip(labels, tasks.values(), strict=True):
        logits = module(task.train.tensors[0][:2])
        assert max(label.max(), task.val.tensors[1].max()) < logits.shape[1]
    assert len(pool) == sum(map(len, labels))
    if option == "texts":
        assert sum(len(label.unique()) for label in labels) == logits.shape[1]
