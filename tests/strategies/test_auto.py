"""The preferred strategy where it can be used, else the other, and nothing between."""

import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from lightning_mixcd import Ledger, Pool, Readout, RehearsalCallback, record_ledger
from lightning_mixcd.strategies import MIR, Auto, HeadProbe, MixCD, Oracle
from tests.toys import Toy, finetune, pool, trainer, weights

HEAD = Readout(features="net.3")


def run(strategy, folder, *, readout=HEAD):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Toy(lr=0.02)
        callback = RehearsalCallback(
            strategy, pool=Pool(pool(), lag=2), ledger=folder, mix_ratio=0.5, readout=readout
        )
        trainer(callback, max_epochs=3).fit(module, DataLoader(finetune(), batch_size=8))
    return module


@pytest.fixture(params=[True, False], ids=["with_features", "without"])
def ledger(request, tmp_path):
    keep = ["features"] if request.param else []
    record_ledger(Toy(), pool(), tmp_path / "l", readout=HEAD, keep=keep)
    return request.param, tmp_path / "l"


def test_a_run_is_that_of_the_strategy_chosen(ledger, caplog):
    with_features, folder = ledger
    with caplog.at_level(logging.INFO, logger="lightning_mixcd"):
        ours = run(Auto(HeadProbe(), MixCD()), folder)
    plain = run(HeadProbe() if with_features else MixCD(), folder)
    assert ours.seen == plain.seen
    assert torch.equal(weights(ours), weights(plain))
    [said] = [record.getMessage() for record in caplog.records if record.name.startswith("lightning_mixcd")]
    if with_features:
        assert said == "Rehearsal with HeadProbe"
    else:
        assert said.startswith(
            "Rehearsal with MixCD, because HeadProbe cannot be: `ledger` must have a column `features`"
        )


def test_features_are_not_read_where_they_are_not_used(ledger):
    with_features, folder = ledger
    strategy = Auto(HeadProbe(), MixCD())
    run(strategy, folder)
    assert strategy.needs_features == with_features


def test_it_chooses_anew_in_each_fit(tmp_path):
    record_ledger(Toy(), pool(), tmp_path / "plain", readout=HEAD)
    record_ledger(Toy(), pool(), tmp_path / "features", readout=HEAD, keep=["features"])
    strategy, modules = Auto(HeadProbe(), MixCD()), []
    for name, kind in (("features", HeadProbe), ("plain", MixCD), ("features", HeadProbe)):
        modules.append(run(strategy, tmp_path / name))
        assert isinstance(strategy.chosen, kind)
    assert strategy.preferred._head._live is modules[-1].net[3]


def test_head_that_cannot_be_used_is_no_error(monkeypatch):
    def refuse(self, head):
        raise TypeError("The head must be whole on every process")

    monkeypatch.setattr(HeadProbe, "attach", refuse)
    strategy = Auto(HeadProbe(), MixCD())
    strategy.attach(nn.Linear(3, 2))
    columns = {"features": torch.ones(20, 3), "label": torch.tensor([0, 1] * 10)}
    record = Ledger.from_arrays([True] * 20, [0.1] * 20, **columns)
    strategy.setup(20, record, seed=0)
    assert isinstance(strategy.chosen, MixCD)
    monkeypatch.undo()
    strategy.attach(nn.Linear(3, 2))
    strategy.setup(20, record, seed=0)
    assert isinstance(strategy.chosen, HeadProbe)


def test_features_of_another_width_are_no_error():
    strategy = Auto(HeadProbe(), MixCD())
    strategy.attach(nn.Linear(3, 2))
    columns = {"features": torch.zeros(20, 5), "label": torch.zeros(20, dtype=torch.int64)}
    strategy.setup(20, Ledger.from_arrays([True] * 20, [0.1] * 20, **columns), seed=0)
    assert isinstance(strategy.chosen, MixCD)


def test_choice_is_made_anew_in_each_setup():
    strategy = Auto(HeadProbe(), MixCD())
    label = torch.tensor([0, 1] * 10)
    for columns, kind in (
        ({}, MixCD),
        ({"features": torch.ones(20, 3), "label": label}, HeadProbe),
        ({}, MixCD),
    ):
        strategy.attach(nn.Linear(3, 2))
        strategy.setup(20, Ledger.from_arrays([True] * 20, [0.1] * 20, **columns), seed=0)
        assert isinstance(strategy.chosen, kind)


@pytest.mark.parametrize("wrong", ["head_probe", MIR(), Oracle()])
def test_strategies_that_look_at_the_model_are_refused(wrong):
    with pytest.raises(TypeError, match="`preferred` must be a strategy that never looks at the model"):
        Auto(wrong, MixCD())
    with pytest.raises(TypeError, match="`otherwise` must be a strategy that never looks at the model"):
        Auto(MixCD(), wrong)


class Affine(nn.Module):
    """A linear layer under another name."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return x @ self.weight.T + self.bias


def test_module_without_a_head_is_no_error(tmp_path):
    module = Toy()
    module.net = nn.Sequential(*[Affine(p) if isinstance(p, nn.Linear) else p for p in module.net])
    strategy = Auto(HeadProbe(), MixCD())
    callback = RehearsalCallback(strategy, pool=pool(), ledger=tmp_path / "l", mix_ratio=0.5)
    trainer(callback, max_epochs=1).fit(module, DataLoader(finetune(), batch_size=8))
    assert isinstance(strategy.chosen, MixCD)
