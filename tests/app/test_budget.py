"""An oracle's run ends where uniform rehearsal would have spent the same budget."""

import pytest
from torch.nn.functional import cross_entropy

from lightning_mixcd import Oracle, RehearsalCallback, Uniform
from lightning_mixcd.app.outcome import Outcome
from tests.toys import Finetune, Toy, ledger, pool, trainer

UNITS = 500
BATCH = 3 * 12  # units of a batch, which has 8 finetune rows and 4 rehearsed ones


class Apart(Toy):
    """Rehearsed rows have a batch of their own."""

    def rehearsal_step(self, batch, batch_idx):
        logits = self.net(batch[0][:, :-1])
        return self.outputs(cross_entropy(logits, batch[1]), logits)


def fit(strategy, units, *, module=Toy, resume=None, save=None, **settings):
    """A run with a budget, of an oracle for its training alone, and of others for all that they do."""
    rehearsal = RehearsalCallback(
        strategy, pool=pool(), ledger=ledger(), mix_ratio=0.5, max_compute_units=units
    )
    rehearsal.looks_are_free = isinstance(strategy, Oracle)
    outcome = Outcome(rehearsal)
    run = trainer(rehearsal, outcome, **{"max_epochs": 50, **settings})
    run.fit(module(), datamodule=Finetune(), ckpt_path=resume)
    if save:
        run.save_checkpoint(save)
    outcome.collect(run)
    return outcome


@pytest.mark.parametrize("units", [UNITS, 14 * BATCH])
@pytest.mark.parametrize("module", [Toy, Apart])
def test_oracle_gets_the_steps_that_uniform_rehearsal_can_afford(module, units):
    uniform = fit(Uniform(), units, module=module)
    oracle = fit(Oracle(every_n_steps=2), units, module=module)
    assert oracle.steps == uniform.steps == 14
    assert oracle.compute_units > uniform.compute_units + len(pool())


def test_budget_that_is_spent_amid_accumulated_batches_ends_with_their_step():
    uniform, oracle = (
        fit(strategy, 13 * BATCH, accumulate_grad_batches=2) for strategy in (Uniform(), Oracle())
    )
    # Of the five batches of an epoch the last makes a step alone.
    assert oracle.steps == uniform.steps == 3 + 3 + 2


def test_without_a_budget_a_run_goes_on():
    oracle = fit(Oracle(), None, max_epochs=20)
    assert oracle.steps == 20 * 5
    assert not oracle.exhausted


@pytest.mark.parametrize(("units", "ended"), [(UNITS, True), (10**6, False)])
def test_run_that_a_budget_ended_is_known_to_be(units, ended):
    assert fit(Oracle(), units, max_epochs=3).exhausted == ended


@pytest.mark.parametrize("first", [1, 13])
def test_resumed_run_spends_the_rest(first, tmp_path):
    fit(Oracle(every_n_steps=2), UNITS, max_steps=first, save=tmp_path / "first.ckpt")
    resumed = fit(Oracle(every_n_steps=2), UNITS, resume=tmp_path / "first.ckpt")
    assert (resumed.steps, resumed.exhausted) == (14, True)
