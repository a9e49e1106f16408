"""An oracle's run ends where uniform rehearsal would have spent the same budget."""

from types import SimpleNamespace

import pytest
from torch.nn.functional import cross_entropy

from lightning_mixcd import Oracle, RehearsalCallback, Uniform
from lightning_mixcd.app.budget import TrainingBudget
from lightning_mixcd.app.outcome import Outcome
from tests.toys import Finetune, Toy, ledger, pool, trainer

UNITS = 500
BATCH = 3 * 12  # units of a batch, which has 8 finetune rows and 4 rehearsed ones


class Apart(Toy):
    """Rehearsed rows have a batch of their own."""

    def rehearsal_step(self, batch, batch_idx):
        logits = self.net(batch[0][:, :-1])
        return self.outputs(cross_entropy(logits, batch[1]), logits)


def fit(strategy, units, *, spent=0, module=Toy, **settings):
    """A run with a budget, of an oracle for its training alone, and of others for all that they do."""
    is_mark = isinstance(strategy, Oracle)
    rehearsal = RehearsalCallback(
        strategy, pool=pool(), ledger=ledger(), mix_ratio=0.5, max_compute_units=None if is_mark else units
    )
    budget, outcome = TrainingBudget(units if is_mark else None, rehearsal), Outcome(rehearsal)
    budget.load_state_dict({"spent": spent})
    run = trainer(rehearsal, budget, **{"max_epochs": 50, **settings})
    run.callbacks.append(outcome)
    run.fit(module(), datamodule=Finetune())
    outcome.collect(run)
    return outcome, budget


@pytest.mark.parametrize("units", [UNITS, 14 * BATCH])
@pytest.mark.parametrize("module", [Toy, Apart])
def test_oracle_gets_the_steps_that_uniform_rehearsal_can_afford(module, units):
    uniform, _ = fit(Uniform(), units, module=module)
    oracle, _ = fit(Oracle(every_n_steps=2), units, module=module)
    assert oracle.steps == uniform.steps == 14
    assert oracle.compute_units > uniform.compute_units + len(pool())


def test_budget_that_is_spent_amid_accumulated_batches_ends_with_their_step():
    uniform, oracle = (
        fit(strategy, 13 * BATCH, accumulate_grad_batches=2)[0] for strategy in (Uniform(), Oracle())
    )
    # Of the five batches of an epoch the last makes a step alone.
    assert oracle.steps == uniform.steps == 3 + 3 + 2


@pytest.mark.parametrize(("units", "other", "ended"), [(3, False, True), (4, True, True), (4, False, False)])
def test_processes_pay_for_all_rows_and_end_together(units, other, ended):
    asked = []

    def reduce_boolean_decision(spent, all):  # noqa: A002 -- Lightning's name
        asked.append(all)
        return spent or other

    strategy = SimpleNamespace(reduce_boolean_decision=reduce_boolean_decision)
    run = SimpleNamespace(world_size=3, global_step=1, strategy=strategy, should_stop=False)
    budget = TrainingBudget(units * BATCH, SimpleNamespace(batch_units=BATCH))
    budget.on_train_batch_end(run, None, None, None, 0)
    assert asked == [False]
    assert budget.exhausted == run.should_stop == ended


def test_without_a_budget_a_run_goes_on():
    oracle, budget = fit(Oracle(), None)
    assert oracle.steps == 50 * 5
    assert not budget.exhausted


@pytest.mark.parametrize(("units", "ended"), [(UNITS, True), (10**6, False)])
def test_run_that_a_budget_ended_is_known_to_be(units, ended):
    oracle, _ = fit(Oracle(), units, max_epochs=3)
    assert oracle.exhausted == ended


@pytest.mark.parametrize("first", [1, 13])
def test_resumed_run_spends_the_rest(first):
    oracle, budget = fit(Oracle(), UNITS, spent=first * BATCH)
    assert oracle.steps == 14 - first
    assert budget.state_dict() == {"spent": 14 * BATCH}
