"""Every exported part goes through the suite that users have; a part without a row here fails."""

import importlib
import inspect
import pkgutil
from functools import partial

import pytest
import torch

from lightning_mixcd import estimators, partitions, strategies
from lightning_mixcd.estimators import DecayedBeta, Estimator, LastBatch, RunningMean, Static
from lightning_mixcd.partitions import (
    ByCluster,
    ByColumn,
    ByLabel,
    ByLossQuantile,
    Partition,
    Product,
    Shuffled,
    Single,
)
from lightning_mixcd.strategies import (
    ASER,
    MIR,
    Auto,
    ClassBalanced,
    FunctionStrategy,
    GDumbMemory,
    GradientMatching,
    Grasp,
    GSSMemory,
    HeadProbe,
    HerdingMemory,
    HighestLoss,
    LastLayerInfluence,
    LeastConfidence,
    LossProportional,
    MixCD,
    MostSupportive,
    NoRehearsal,
    Oracle,
    PredictedForgetting,
    ProbeMatching,
    ScreenDamaged,
    ScreenHighestLoss,
    ScreenLeastConfidence,
    Strategy,
    Uniform,
    UniformCorrect,
)
from lightning_mixcd.testing import check_estimator, check_partition, check_strategy
from tests.soak.chancy import any_of_them


def head_probe(kind=HeadProbe, **settings):
    strategy = kind(**settings)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        strategy.attach(torch.nn.Linear(2, 3))
    return strategy


STRATEGIES = {
    NoRehearsal: [NoRehearsal],
    Uniform: [Uniform],
    UniformCorrect: [UniformCorrect],
    ClassBalanced: [ClassBalanced, lambda: ClassBalanced(ByColumn("source"))],
    MixCD: [
        MixCD,
        lambda: MixCD(partition=Single()),
        lambda: MixCD(partition=ByLabel(), estimator=RunningMean(), rule="rate", floor=0.0),
        lambda: MixCD(partition=ByLabel(), estimator=LastBatch(), wrong_share=0.3),
        lambda: MixCD(partition=Shuffled(ByLabel()), floor=1.0),
        lambda: MixCD(partition=ByLossQuantile(3), estimator=Static([0.1, 0.0, 0.9])),
    ],
    LossProportional: [
        *(partial(LossProportional, source) for source in ("ledger", "last_seen", "refresh")),
        lambda: LossProportional(correct_only=True, floor=0.0),
    ],
    HighestLoss: [
        *(partial(HighestLoss, source) for source in ("ledger", "last_seen", "refresh")),
        lambda: HighestLoss("refresh", correct_only=True, every_n_steps=1, candidates_per_row=2),
    ],
    LeastConfidence: [LeastConfidence, lambda: LeastConfidence("refresh", correct_only=True)],
    MostSupportive: [lambda: MostSupportive("loss"), lambda: MostSupportive("loss", correct_only=True)],
    GDumbMemory: [lambda: GDumbMemory(2), lambda: GDumbMemory(30)],
    HerdingMemory: [lambda: HerdingMemory(2), lambda: HerdingMemory(30)],
    GSSMemory: [lambda: GSSMemory(2), lambda: GSSMemory(30, compared=3)],
    Grasp: [Grasp],
    HeadProbe: [
        head_probe,
        lambda: head_probe(uniform_share=0.0, sharpness=5.0),
        lambda: head_probe(uniform_share=1.0, rank=1, halflife_steps=float("inf")),
        lambda: head_probe(importance=1.0, candidates_per_row=1),
        lambda: head_probe(partition=ByLabel()),
    ],
    ProbeMatching: [
        lambda: head_probe(ProbeMatching),
        lambda: head_probe(ProbeMatching, candidates_per_row=1, uniform_share=0.0),
        lambda: head_probe(ProbeMatching, uniform_share=1.0, rank=1),
    ],
    Auto: [lambda: Auto(head_probe(), MixCD()), lambda: Auto(MixCD(partition=ByColumn("none")), MixCD())],
    PredictedForgetting: [
        PredictedForgetting,
        lambda: PredictedForgetting(rank=1, candidates_per_row=1, halflife_steps=1.0),
    ],
    MIR: [MIR, lambda: MIR(UniformCorrect(), candidates_per_row=2)],
    LastLayerInfluence: [LastLayerInfluence],
    GradientMatching: [GradientMatching],
    ASER: [ASER, lambda: ASER(ClassBalanced())],
    ScreenDamaged: [ScreenDamaged, lambda: ScreenDamaged(Uniform())],
    ScreenHighestLoss: [ScreenHighestLoss],
    ScreenLeastConfidence: [ScreenLeastConfidence],
    FunctionStrategy: [lambda: FunctionStrategy(any_of_them)],
    Oracle: [Oracle, lambda: Oracle(uniform_share=0.0), lambda: Oracle(every_n_steps=1, uniform_share=1.0)],
}
PARTITIONS = {
    Single: [Single],
    ByLabel: [ByLabel],
    ByColumn: [lambda: ByColumn("source"), lambda: ByColumn("correct")],
    ByLossQuantile: [
        ByLossQuantile,
        lambda: ByLossQuantile(2),
        lambda: ByLossQuantile(2, column="label"),
    ],
    ByCluster: [lambda: ByCluster(3)],
    Product: [
        lambda: Product([ByLabel()]),
        lambda: Product([ByLabel(), ByColumn("source"), ByLossQuantile(2)], min_bin_size=5),
    ],
    Shuffled: [lambda: Shuffled(ByLabel()), lambda: Shuffled(ByLossQuantile(2), seed=3)],
}
ESTIMATORS = {
    DecayedBeta: [DecayedBeta, lambda: DecayedBeta(float("inf"), a=0.5, b=3.0), lambda: DecayedBeta(0.5)],
    RunningMean: [RunningMean],
    LastBatch: [LastBatch],
    Static: [(lambda: Static([0.0, 0.2, 1.0]), {"n_bins": [3], "learns": False})],
}
AXES = [
    (strategies, Strategy, STRATEGIES, check_strategy),
    (partitions, Partition, PARTITIONS, check_partition),
    (estimators, Estimator, ESTIMATORS, check_estimator),
]


def concrete(kind):
    """All subclasses that can be constructed and are of the package."""
    found = {sub for child in kind.__subclasses__() for sub in (child, *concrete(child))}
    return {
        sub for sub in found if not inspect.isabstract(sub) and sub.__module__.startswith("lightning_mixcd.")
    }


def cases():
    for _, _, table, check in AXES:
        for kind, rows in table.items():
            for number, row in enumerate(rows):
                make, options = row if isinstance(row, tuple) else (row, {})
                yield pytest.param(partial(check, make, **options), id=f"{kind.__name__}-{number}")


@pytest.mark.parametrize("check", list(cases()))
def test_part_keeps_its_contract(check):
    check()


@pytest.mark.parametrize(("package", "kind", "table"), [axis[:3] for axis in AXES])
class TestEveryPartIsHere:
    def test_exported_parts_have_a_row(self, package, kind, table):
        exported = {getattr(package, name) for name in package.__all__}
        parts = {part for part in exported if inspect.isclass(part) and issubclass(part, kind)}
        missing = sorted(part.__name__ for part in parts - {*table} if not inspect.isabstract(part))
        assert not missing, f"add a row with a list of factories for {missing} to the tables of this file"

    def test_parts_are_exported(self, package, kind, table):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
        hidden = {part.__name__ for part in concrete(kind)} - {*package.__all__}
        assert not hidden, f"`{package.__name__}.__all__` lacks {sorted(hidden)}"
