"""Everything a user composes can be named in a config file of LightningCLI."""

import inspect
import json
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import TensorDataset

import lightning_mixcd.weights
from lightning_mixcd import (
    DecayedBeta,
    EveryNSteps,
    MixCD,
    RehearsalCallback,
    adapters,
    estimators,
    live,
    partitions,
    penalties,
    resume,
    schedules,
    strategies,
)
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.penalties import L2SP
from tests.toys import QUIET, Finetune, Toy, pool, trainer, weights

BY_LABEL = "lightning_mixcd.partitions.ByLabel"
# Of the parts that cannot do without.
NEEDED = {
    "Auto": {"preferred": "lightning_mixcd.HeadProbe", "otherwise": "lightning_mixcd.MixCD"},
    "ByColumn": {"column": "genre"},
    "FunctionStrategy": {"function": "tests.soak.chancy.any_of_them"},
    "GDumbMemory": {"memory_size": 5},
    "GEM": {"partition": BY_LABEL},
    "GSSMemory": {"memory_size": 5},
    "HeadFirst": {"head": "net.3", "steps": 5},
    "HerdingMemory": {"memory_size": 5},
    "Product": {"parts": [BY_LABEL, {"class_path": BY_LABEL}]},
    "Ramp": {"steps": 5},
    "Shuffled": {"partition": BY_LABEL},
    "Static": {"rates": [0.1, 0.2]},
}
BASES = {
    strategies: strategies.Strategy,
    partitions: partitions.Partition,
    estimators: estimators.Estimator,
    penalties: penalties.Penalty,
    schedules: schedules.Schedule,
    adapters: Callback,
    live: Callback,
    resume: Callback,
    lightning_mixcd.weights: Callback,
}


def parts():
    for package, base in BASES.items():
        for name in package.__all__:
            part = getattr(package, name)
            # A schedule is any function of the step.
            kinds = object if base is schedules.Schedule else base
            if inspect.isclass(part) and issubclass(part, kinds) and not inspect.isabstract(part):
                yield pytest.param(base, part, id=name)


@pytest.mark.parametrize(("base", "part"), list(parts()))
def test_part_is_made_of_its_name_and_settings(base, part):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--part", type=base)
    named = {"class_path": f"{part.__module__}.{part.__name__}", "init_args": NEEDED.get(part.__name__, {})}
    made = parser.instantiate(parser.parse_object({"part": named})).part
    assert type(made) is part


class FirstOfPool(TensorDataset):
    """A dataset with a setting of its own."""

    def __init__(self, n: int = 60) -> None:
        super().__init__(*(values[:n] for values in pool().tensors))


SETTINGS = {
    "strategy": {
        "class_path": "lightning_mixcd.MixCD",
        "init_args": {"partition": BY_LABEL, "estimator": "lightning_mixcd.DecayedBeta", "floor": 0.2},
    },
    "penalties": [{"class_path": "lightning_mixcd.penalties.L2SP", "init_args": {"alpha": 0.1}}],
    "schedule": {"class_path": "lightning_mixcd.EveryNSteps", "init_args": {"n": 2}},
    "readout": {"logits": "logits"},
    "seed": 3,
}
WHAT = {"ledger": "here.ledger", "mix_ratio": 0.5}


@pytest.mark.parametrize("pool_is", ["a dataset", "a pool"])
@pytest.mark.parametrize("given_to", ["callback", "datamodule"])
def test_run_of_a_config_file_is_the_run_of_the_code(given_to, pool_is, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    dataset = {"class_path": f"{__name__}.FirstOfPool", "init_args": {"n": 30}}
    what = {**WHAT, "pool": dataset if pool_is == "a dataset" else {"dataset": dataset, "lag": 8}}
    settings = SETTINGS | (what if given_to == "callback" else {})
    data = {"class_path": "tests.toys.Finetune", "init_args": {"batch_size": 8}}
    if given_to == "datamodule":
        data = {"class_path": "lightning_mixcd.RehearsalDataModule", "init_args": {"finetune": data, **what}}
    callback = {"class_path": "lightning_mixcd.RehearsalCallback", "init_args": settings}
    config = {
        "seed_everything": 3,
        "trainer": {**QUIET, "max_epochs": 2, "callbacks": [callback]},
        "data": data,
    }
    Path("config.yaml").write_text(json.dumps(config))
    made = LightningCLI(Toy, save_config_callback=None, args=["fit", "--config=config.yaml"])

    module = Toy()
    by_code = RehearsalCallback(
        MixCD(partition=ByLabel(), estimator=DecayedBeta(), floor=0.2),
        penalties=[L2SP(0.1)],
        schedule=EveryNSteps(2),
        seed=3,
        pool=FirstOfPool(30),
        **WHAT,
    )
    trainer(by_code, max_epochs=2).fit(module, datamodule=Finetune(batch_size=8))
    assert made.model.seen == module.seen
    assert torch.equal(weights(made.model), weights(module))
