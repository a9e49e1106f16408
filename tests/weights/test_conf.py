"""The callbacks of this package as the app's group `weights` names them."""

from pathlib import Path

from hydra.utils import instantiate
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import OmegaConf

from lightning_mixcd.app.conf import conf_dir
from lightning_mixcd.tasks import cnn, mlp
from lightning_mixcd.weights import HeadFirst


def made(option):
    return instantiate(OmegaConf.load(Path(conf_dir()) / "weights" / f"{option}.yaml"), _convert_="all")


def test_callbacks_are_made_under_their_names():
    assert made("none") == {}
    callbacks = {**made("ema"), **made("head_first")}
    assert [type(callback) for callback in callbacks.values()] == [EMAWeightAveraging, HeadFirst]
    assert [*callbacks] == ["ema", "head_first"]
    Trainer(callbacks=list(callbacks.values()), logger=False, enable_checkpointing=False, accelerator="cpu")


def test_head_is_that_of_the_apps_models():
    name = made("head_first")["head_first"].head
    for model in (mlp(n_inputs=64, n_classes=10), cnn(n_inputs=64, n_classes=10)):
        assert model.get_submodule(name).out_features == 10
