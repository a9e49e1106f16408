"""The base model is trained once, even where what follows is interrupted."""

import pytest
import torch
from hydra import compose, initialize_config_dir

from lightning_mixcd.app import base
from lightning_mixcd.app.conf import conf_dir, make
from lightning_mixcd.ledger import Ledger


@pytest.fixture
def config(tmp_path):
    overrides = [
        f"base_dir={tmp_path}",
        "trainer=cpu",
        "base.max_epochs=1",
        "trainer.enable_progress_bar=false",
    ]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        return compose("train", overrides)


def test_interrupted_recording_does_not_train_again(config, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(base, "record_ledger", die)
        with pytest.raises(KeyboardInterrupt):
            base.base_model(config, make(config.data))
    monkeypatch.setattr(base, "_train", die)
    module, path = base.base_model(config, make(config.data))
    assert Ledger.open(path).size == 600
    kept = torch.load(path.parent / "weights.pt", weights_only=True)
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def test_interrupted_training_leaves_nothing_that_counts(config, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(base.torch, "save", die)
        with pytest.raises(KeyboardInterrupt):
            base.base_model(config, make(config.data))
    _, path = base.base_model(config, make(config.data))
    assert Ledger.open(path).correct.mean() > 0.1
