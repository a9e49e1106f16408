"""The short form of `make soak`: a few runs, each killed and resumed several times."""

from collections import Counter
from inspect import isabstract, isclass

import pytest

from lightning_mixcd import MixCD, estimators, strategies
from lightning_mixcd.estimators import Estimator
from lightning_mixcd.strategies import Strategy
from tests.soak.chancy import STRATEGIES
from tests.soak.death import POINTS, Death
from tests.soak.harness import kill_report, kill_training
from tests.soak.plan import planned
from tests.soak.processes import Delay
from tests.soak.training import Case

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "deaths"),
    [
        (
            Case("mixcd_decayed", accumulate=3),
            [
                Death("ledger recording", point=1, nth=5),
                Death("mid-epoch", point=0, nth=9),
                Death("checkpoint writing", point=1, nth=1),
                Death("validation", point=0, nth=2),
                Delay(1.0),
            ],
        ),
        (
            Case("oracle", n_processes=2, saves="validations"),
            [
                Death("mid-epoch", point=1, nth=4),
                Death("checkpoint writing", point=2, nth=1),
                Death("validation", point=0, nth=1),
            ],
        ),
        (
            Case("class_balanced", n_workers=2),
            [Death("mid-epoch", point=2, nth=5), Death("checkpoint writing", point=1, nth=2)],
        ),
    ],
    ids=["accumulation", "two processes", "workers"],
)
def test_killed_run_is_the_run_left_alone(case, deaths):
    kills = kill_training(case, deaths)
    assert not [(str(kill.death), kill.differences[:5]) for kill in kills if kill.differences]
    assert len(kills) >= sum(isinstance(death, Death) for death in deaths)
    assert sum(kill.from_checkpoint for kill in kills) >= 2


def test_killed_report_is_whole_or_not_there():
    deaths = [Death("report", point, 1) for point in range(len(POINTS["report"]))]
    kills = kill_report(deaths)
    assert len(kills) == len(deaths)
    assert not [(str(kill.death), kill.differences) for kill in kills if kill.differences]


def test_plan_of_the_long_form_has_every_setting_and_point():
    trainings, reports = planned(seed=0)
    cases = [case for case, _ in trainings]
    deaths = [death for _, deaths in trainings for death in deaths] + reports
    assert len({(case.n_workers, case.n_processes, case.accumulate, case.saves) for case in cases}) == 16
    assert Counter(case.strategy for case in cases) == dict.fromkeys(STRATEGIES, 4)
    assert len(set(cases)) == len(cases)
    points = {(death.phase, death.point) for death in deaths if isinstance(death, Death)}
    assert points == {(phase, point) for phase in POINTS for point in range(len(POINTS[phase]))}
    assert len(deaths) >= 300


def test_every_strategy_and_estimator_is_killed():
    made = [make() for make in STRATEGIES.values()]
    assert {type(strategy) for strategy in made} == exported(strategies, Strategy)
    assert {type(strategy.estimator) for strategy in made if isinstance(strategy, MixCD)} == exported(
        estimators, Estimator
    )


def exported(package, kind):
    parts = {getattr(package, name) for name in package.__all__}
    return {part for part in parts if isclass(part) and issubclass(part, kind) and not isabstract(part)}
