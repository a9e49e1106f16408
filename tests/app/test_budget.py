"""An oracle's run ends where uniform rehearsal would have spent the same budget."""

import pytest

from lightning_mixcd import Oracle, RehearsalCallback, Uniform
from lightning_mixcd.app.budget import TrainingBudget
from lightning_mixcd.app.outcome import Outcome
from tests.toys import Finetune, Toy, ledger, pool, trainer

UNITS = 500


def steps(strategy, *others, **settings):
    callback = RehearsalCallback(strategy, pool=pool(), ledger=ledger(), mix_ratio=0.5, **settings)
    module = Toy()
    trainer(callback, *others, max_epochs=50).fit(module, datamodule=Finetune())
    return len(module.seen), callback.compute_units


def test_oracle_gets_the_steps_that_uniform_rehearsal_can_afford():
    uniform, spent = steps(Uniform(), max_compute_units=UNITS)
    oracle, with_looks = steps(Oracle(every_n_steps=2), TrainingBudget(UNITS))
    assert oracle == uniform == 14  # 12 rows of 3 units each
    assert with_looks > spent + len(pool())


def test_without_a_budget_a_run_goes_on():
    budget = TrainingBudget(None)
    assert steps(Oracle(), budget)[0] == 50 * 5
    assert not budget.exhausted


@pytest.mark.parametrize(("units", "ended"), [(UNITS, True), (10**6, False)])
def test_run_that_a_budget_ended_is_known_to_be(units, ended):
    rehearsal = RehearsalCallback(Oracle(), pool=pool(), ledger=ledger(), mix_ratio=0.5)
    outcome, run = Outcome(rehearsal), trainer(rehearsal, TrainingBudget(units), max_epochs=3)
    run.callbacks.append(outcome)
    run.fit(Toy(), datamodule=Finetune())
    outcome.collect(run)
    assert outcome.exhausted == ended


@pytest.mark.parametrize("first", [1, 13])
def test_resumed_run_spends_the_rest(first):
    budget = TrainingBudget(UNITS)
    budget.load_state_dict({"spent": 36 * first})
    assert steps(Oracle(), budget)[0] == 14 - first
    assert budget.state_dict() == {"spent": 36 * 14}
