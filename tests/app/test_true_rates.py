import pytest
import torch

from lightning_mixcd import MixCD, RehearsalCallback, Uniform
from lightning_mixcd.app.true_rates import TrueRates
from lightning_mixcd.data import RehearsalDataModule
from lightning_mixcd.partitions import ByLabel
from tests.toys import Finetune, Listed, OnBatchEnd, Toy, ledger, plain_readings, pool, prompt_pool, trainer
from tests.toys import weights as weights_of

EVERY = 4


def fit(*, every=None, states=None, **settings):
    rehearsal, logger = RehearsalCallback(MixCD(partition=ByLabel()), seed=3), Listed()
    others = [TrueRates(rehearsal, every)] if every else []
    if states is not None:
        keep = lambda t, m, o, b: states.append({k: v.clone() for k, v in m.net.state_dict().items()})  # noqa: E731
        others.append(OnBatchEnd(keep))
    data = RehearsalDataModule(Finetune(), prompt_pool(), mix_ratio=0.5, ledger=ledger())
    settings = {"logger": logger, "log_every_n_steps": 2, "max_epochs": 4, **settings}
    torch.manual_seed(0)
    module = Toy(dropout=0.3)
    trainer(rehearsal, *others, **settings).fit(module, datamodule=data)
    return module, rehearsal, logger


def test_logged_rates_are_those_of_a_pass_over_the_pool():
    states = []
    _, _, logger = fit(every=EVERY, states=states)
    base, bins = torch.from_numpy(ledger().correct.copy()), pool().tensors[1]
    for k in bins[base].unique().tolist():
        rows = base & (bins == k)
        expected = [
            (~plain_readings(state, pool())[0][rows]).double().mean().item()
            for state in states[EVERY - 1 :: EVERY]
        ]
        assert logger.values(f"rehearsal/true_rate/{k:02d}") == pytest.approx(expected)
    assert len(states) // EVERY == len(expected) > 2
    assert max(logger.values("rehearsal/true_rate/00")) > 0


def test_rates_stand_beside_the_estimates():
    rows = fit(every=EVERY)[2].rows
    true, estimated = (
        [step for step, row in rows if f"rehearsal/{name}/00" in row] for name in ("true_rate", "rate")
    )
    assert true == estimated[1::2] != []


def test_looks_are_free_and_leave_no_trace():
    (module, rehearsal, _), (watched, measured, _) = fit(), fit(every=EVERY)
    assert torch.equal(weights_of(module), weights_of(watched))
    assert rehearsal.compute_units == measured.compute_units


@pytest.mark.parametrize("every", [-2, 3])
def test_steps_that_are_not_logged_are_refused(every):
    with pytest.raises(
        ValueError, match=rf"multiple of the trainer's `log_every_n_steps` \(2\), got {every}"
    ):
        fit(every=every)


def test_strategy_without_bins_is_refused():
    with pytest.raises(TypeError, match="must rehearse with MixCD, got Uniform"):
        TrueRates(RehearsalCallback(Uniform()), 10)
