"""What Lightning's loggers for W&B and MLflow make of our names, values and images; the services are fake."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from lightning_mixcd.live import LiveFigures
from tests import toys
from tests.live.test_figures import FIGURES, NAMES, fit

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

BINS = {f"{name}/0{k}" for name in ("rate", "rows") for k in range(toys.N_CLASSES)}
EXPECTED = {"compute_units", "damaged_share", "damage_rate", *BINS}


def fake(monkeypatch, **modules):
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name.replace("_", "."), module)


class Run:
    """What a W&B run is used for."""

    def __init__(self):
        self.logged, self.config = [], {}

    def log(self, values):
        self.logged.append(values)

    def define_metric(self, *args, **kwargs):
        pass


def test_wandb_takes_values_and_images(monkeypatch):
    image = {"Image": lambda pixels: SimpleNamespace(pixels=pixels)}
    fake(monkeypatch, wandb=image, wandb_sdk={}, wandb_sdk_lib={"RunDisabled": ()})
    monkeypatch.setitem(sys.modules, "wandb.wandb_run", SimpleNamespace(Run=Run))
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", True)
    run = Run()
    logger = WandbLogger(experiment=run)
    fit(LiveFigures(**NAMES), logger)
    names = {name for values in run.logged for name in values}
    assert {f"rehearsal/{name}" for name in EXPECTED} <= names
    images = {name: values for values in run.logged for name in values if name in FIGURES}
    assert {*images} == FIGURES
    (image,) = images["rehearsal/curves"]["rehearsal/curves"]
    assert image.pixels.ndim == 3


class Tracked(MLFlowLogger):
    """With a client of the test's own."""

    run_id = name = version = "1"
    _prefix, _tracking_uri, _log_batch_kwargs, _initialized = "", "", {}, False

    def __init__(self, client):
        super(MLFlowLogger, self).__init__()
        self._client = client

    @property
    def experiment(self):
        return self._client


def test_mlflow_takes_our_names_as_they_are(monkeypatch):
    fake(monkeypatch, mlflow={}, mlflow_entities={"Metric": SimpleNamespace})
    sent = []
    fit(
        LiveFigures(**NAMES), Tracked(SimpleNamespace(log_batch=lambda run_id, metrics: sent.extend(metrics)))
    )
    names = {metric.key for metric in sent}
    assert {f"rehearsal/{name}" for name in EXPECTED} <= names
    assert all(isinstance(metric.value, float | int) for metric in sent)
