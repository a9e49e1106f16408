"""What a resumed run must keep, and what it may change; see also the runs that change nothing."""

import inspect
import warnings
from abc import ABCMeta
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_mixcd import (
    Auto,
    EveryNSteps,
    HeadProbe,
    Ledger,
    MixCD,
    Oracle,
    Pool,
    Readout,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    estimators,
    partitions,
    penalties,
    schedules,
    strategies,
)
from lightning_mixcd.estimators import Estimator, LastBatch, RunningMean, Static
from lightning_mixcd.partitions import ByLabel, ByLossQuantile, Partition, Product, Shuffled
from lightning_mixcd.penalties import GEM, L2SP, Distillation, Penalty
from lightning_mixcd.same_run import check_run, check_state, describe
from lightning_mixcd.schedules import HoldRetention, ModelTime, Ramp
from lightning_mixcd.settings import Settings
from lightning_mixcd.strategies import HighestLoss, LeastConfidence, LossProportional, Strategy
from tests.conformance.test_parts import ESTIMATORS, PARTITIONS, STRATEGIES
from tests.toys import Finetune, Toy, finetune, ledger, pool, rehearsed, trainer

BEGUN = {"mix_ratio": 0.5, "penalties": [L2SP(0.1)], "schedule": ModelTime(1, lag=2)}


def fit(strategy=None, *, data=None, ckpt_path=None, n_epochs=2, record=None, **settings):
    callback = RehearsalCallback(
        strategy or MixCD(), pool=data or Pool(pool()), ledger=record or ledger(), **{**BEGUN, **settings}
    )
    module, run = Toy(), trainer(callback, max_epochs=n_epochs)
    run.fit(module, DataLoader(finetune(), 8), ckpt_path=ckpt_path)
    return run, module


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    path = tmp_path_factory.mktemp("begun") / "half.ckpt"
    fit()[0].save_checkpoint(path)
    return path


def other_ledger():
    known = ledger()
    correct = known.correct.copy()
    correct[np.flatnonzero(correct)[0]] = False
    return Ledger.from_arrays(correct, known.loss, label=known.column("label"))


REFUSED = {
    "`seed` 0, got 5": {"seed": 5},
    "`lag` 8, got 4": {"data": Pool(pool(), lag=4)},
    "`n_pool` 60, got 59": {"data": Pool(torch.utils.data.Subset(pool(), range(59))), "record": False},
    "`n_base_correct` ": {"record": other_ledger},
    "`strategy` 'MixCD', got 'Uniform'": {"strategy": Uniform()},
    r"`strategy\.partition` 'ByLossQuantile', got 'Shuffled'": {
        "strategy": MixCD(partition=Shuffled(ByLossQuantile(10)))
    },
    r"`strategy\.partition\.n_bins` 10, got 5": {"strategy": MixCD(partition=ByLossQuantile(5))},
    "`penalties` 'L2SP', got 'Distillation'": {"penalties": [Distillation()]},
    r"state of `MixCD` .* lacks \['last'\], should not have \['damaged', 'seen'\]": {
        "strategy": MixCD(estimator=LastBatch())
    },
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_what_draws_or_learnt_numbers_depend_on_is_refused(message, begun):
    settings = dict(REFUSED[message])
    record = settings.pop("record", ledger)
    if not record:
        known = ledger()
        record = lambda: Ledger.from_arrays(known.correct[:-1], known.loss[:-1])  # noqa: E731
    with pytest.raises(ValueError, match=f"{message}.*load them into the module and leave out `ckpt_path`"):
        fit(ckpt_path=begun, n_epochs=4, record=record(), **settings)


def resumed(begun, **changed):
    """Rows per step of a run that goes on, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, module = fit(ckpt_path=begun, n_epochs=4, **changed)
    said = [str(w.message) for w in caught if "goes on with other settings" in str(w.message)]
    return [len(step) for step in rehearsed(module)], said


def test_nothing_is_said_where_nothing_has_changed(begun):
    assert resumed(begun)[1] == []
    assert (
        resumed(begun, data=Pool(pool(), num_workers=1, unreadable="skip"), max_compute_units=10**6)[1] == []
    )


@pytest.mark.parametrize("mix_ratio", [1, 0.25, Fraction(1, 4)])
def test_another_mix_ratio_holds_from_here_on_without_making_up_for_the_past(mix_ratio, begun):
    rows, said = resumed(begun, mix_ratio=mix_ratio, schedule=EveryNSteps(1))
    assert rows == [8 * mix_ratio] * 10
    plain = 1 if mix_ratio == 1 else 0.25
    assert said == [
        "The resumed run goes on with other settings than it was begun with: "
        f"mix_ratio={plain} in place of 0.5, schedule='EveryNSteps' in place of 'ModelTime'."
    ]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rehearsal_weight": 2}, "rehearsal_weight=2 in place of 1.0"),
        ({"schedule": HoldRetention(0.9)}, "schedule='HoldRetention' in place of 'ModelTime'"),
        ({"schedule": ModelTime(2, lag=2)}, "schedule.day=2 in place of 1"),
        ({"penalties": [L2SP(0.3)]}, "penalties.0.alpha=0.3 in place of 0.1"),
        ({"strategy": MixCD(floor=np.float64(0.5))}, "strategy.floor=0.5 in place of 0.05"),
        ({"strategy": MixCD(estimator=RunningMean())}, "strategy.estimator='RunningMean' in place of"),
    ],
)
def test_what_may_change_is_said(changed, message, begun):
    _, said = resumed(begun, **changed)
    assert len(said) == 1
    assert message in said[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: state.pop("rows"), r"must be what this `MixCD` would save, but it lacks \['rows'\]\."),
        (lambda state: state.update(old=torch.zeros(1)), r"but it should not have \['old'\]\."),
        (lambda state: state.update(seen=torch.zeros(3)), r"but it has in another shape \['seen'\]\."),
    ],
)
def test_state_of_another_version_is_refused(spoil, message, begun, tmp_path):
    saved = torch.load(begun, weights_only=False)
    spoil(saved["callbacks"]["RehearsalCallback"]["strategy"])
    torch.save(saved, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=message):
        fit(ckpt_path=tmp_path / "old.ckpt", n_epochs=4)


def test_checkpoints_that_say_less_are_resumed(begun, tmp_path):
    """Those of 0.2.0 know strategy and size of the pool only."""
    saved = torch.load(begun, weights_only=False)
    state = saved["callbacks"]["RehearsalCallback"]
    state["run"] = {name: state["run"][name] for name in ("strategy", "n_pool")}
    torch.save(saved, tmp_path / "old.ckpt")
    assert resumed(tmp_path / "old.ckpt") == resumed(begun)


def settings(strategy, **changed):
    return Settings(**{
        "strategy": strategy,
        "pool": Pool(pool()),
        "ledger": None,
        "mix_ratio": 0.25,
        "schedule": EveryNSteps(1),
        "readout": Readout(),
        "seed": 0,
        **changed,
    })


def test_parts_of_parts_are_described_in_plain_values():
    strategy = Auto(HeadProbe(partition=Product([ByLabel(), ByLossQuantile(np.int64(3))])), MixCD())
    found = describe(settings(strategy, mix_ratio=np.float32(0.5), schedule=lambda step: True), ledger())
    expected = {
        "n_pool": 60,
        "mix_ratio": 0.5,
        "strategy.preferred.partition.parts.1.n_bins": 3,
        "strategy.otherwise.estimator.halflife_steps": 100.0,
        "schedule": "function",
        "readout.tolerance": None,
    }
    assert {name: found[name] for name in expected} == expected
    assert {type(value) for value in found.values()} <= {int, float, str, bool, type(None)}
    other = Auto(HeadProbe(partition=Product([ByLabel(), ByLossQuantile(4)])), MixCD())
    with pytest.raises(ValueError, match=r"`strategy\.preferred\.partition\.parts\.1\.n_bins` 3, got 4"):
        check_run(found, describe(settings(other), ledger()))


ROWS = STRATEGIES | PARTITIONS | ESTIMATORS
ROWS |= {
    Ramp: [lambda: Ramp(5)],
    EveryNSteps: [lambda: EveryNSteps(2)],
    GEM: [lambda: GEM(partition=ByLabel())],
}
NO_SETTINGS = {"FunctionStrategy.function", "EWC.previous"}  # code, and tensors


AXES = {
    strategies: Strategy,
    estimators: Estimator,
    partitions: Partition,
    penalties: Penalty,
    schedules: object,
}


def parts():
    yield Readout
    for package, base in AXES.items():
        for kind in map(vars(package).get, package.__all__):
            if type(kind) in (type, ABCMeta) and issubclass(kind, base) and not inspect.isabstract(kind):
                yield kind


@pytest.mark.parametrize("kind", list(parts()))
def test_every_argument_of_every_part_is_described(kind):
    row = ROWS.get(kind, [kind])[0]
    make = row[0] if isinstance(row, tuple) else row
    found = {name.split(".")[1] for name in describe(settings(make()), None) if name.startswith("strategy.")}
    missing = {
        f"{kind.__name__}.{argument}"
        for argument in inspect.signature(kind).parameters
        if argument not in found
    }
    assert missing <= NO_SETTINGS


@pytest.mark.parametrize(
    "kind", [Oracle, *(partial(kind, "refresh") for kind in (LossProportional, HighestLoss, LeastConfidence))]
)
def test_another_time_between_passes_is_said(kind):
    begun, now = (describe(settings(kind(every_n_steps=n)), None) for n in (2, 20))
    assert check_run(begun, now) == {"strategy.every_n_steps": "strategy.every_n_steps=20 in place of 2"}


def test_other_rates_are_said():
    begun, now = (describe(settings(MixCD(estimator=Static(rates))), None) for rates in ([0.1, 0.7], [0.7]))
    name = "strategy.estimator.rates"
    assert check_run(begun, now) == {name: f"{name}='0.7' in place of '0.1, 0.7'"}


def test_long_lists_of_numbers_are_told_apart_in_few_words():
    rates = np.linspace(0.1, 0.9, 1000)
    one, same, other = (describe(settings(Static(r)), None) for r in (rates, list(rates), rates[::-1]))
    assert one == same
    assert {*check_run(one, other)} == {"strategy.rates"}
    assert len(one["strategy.rates"]) < 100


def test_ledger_that_draws_do_not_go_by_is_free():
    assert "n_base_correct" not in describe(settings(Uniform()), ledger())


def test_state_that_fits_is_taken():
    check_state("MixCD", {"rates": torch.zeros(2)}, {"rates": torch.ones(2)})


def test_numbers_of_numpy_run_and_are_saved_as_plain_ones(tmp_path):
    data = RehearsalDataModule(
        Finetune(), Pool(pool(), lag=np.int64(4)), mix_ratio=np.float32(0.5), order_seed=np.int64(3)
    )
    bench, module = trainer(RehearsalCallback(Uniform(), seed=np.int64(5))), Toy()
    bench.fit(module, datamodule=data)
    bench.save_checkpoint(tmp_path / "end.ckpt")
    run = torch.load(tmp_path / "end.ckpt", weights_only=True)["callbacks"]["RehearsalCallback"]["run"]
    assert (run["seed"], run["lag"], run["mix_ratio"]) == (5, 4, 0.5)
    assert [len(step) for step in rehearsed(module)] == [4] * 5


def test_ledger_with_as_many_samples_right_but_others_is_refused():
    correct = np.arange(60) > 0
    one, two = (Ledger.from_arrays(found, np.ones(60)) for found in (correct, correct[::-1]))
    with pytest.raises(ValueError, match="`base_correct` 'checksum "):
        check_run(describe(settings(MixCD()), one), describe(settings(MixCD()), two))


def every(n, step):
    return step % n == 0


@pytest.mark.parametrize("schedule", [partial(every, 2), bool, lambda step: step > 1])
def test_any_function_may_be_the_schedule(schedule, tmp_path):
    run, module = fit(schedule=schedule)
    assert [len(rows) > 0 for rows in rehearsed(module)] == [bool(schedule(step)) for step in range(10)]
    run.save_checkpoint(tmp_path / "one.ckpt")
    fit(schedule=schedule, ckpt_path=tmp_path / "one.ckpt", n_epochs=3)
