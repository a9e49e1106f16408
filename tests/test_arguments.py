"""Every number that a user may set: what is out of range or no number is refused by name."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_mixcd import (
    ASER,
    MIR,
    ClassBalanced,
    DecayedBeta,
    EveryNSteps,
    GDumbMemory,
    GSSMemory,
    HeadProbe,
    HighestLoss,
    LossProportional,
    MixCD,
    Oracle,
    Pool,
    PredictedForgetting,
    ProbeMatching,
    Readout,
    RehearsalCallback,
    RehearsalDataModule,
    ScreenDamaged,
    Uniform,
)
from lightning_mixcd.adapters import LoRA, SelectiveLoRA
from lightning_mixcd.data.ration import Ration
from lightning_mixcd.errors import check_number, check_whole
from lightning_mixcd.estimators import Static
from lightning_mixcd.partitions import ByCluster, ByLabel, ByLossQuantile, Product, Shuffled, Single
from lightning_mixcd.penalties import DER, EWC, GEM, L2SP, MAS, Distillation, Flow
from lightning_mixcd.schedules import ExpandingIntervals, HoldRetention, ModelTime, Ramp
from lightning_mixcd.weights import HeadFirst
from tests.toys import Finetune, Toy, trainer

POOL = [0, 1, 2]


def finite_from_0(x):
    return 0 <= x < math.inf


# Name, what is made with it, and the range that its docstring promises.
FLOATS = [
    ("halflife_steps", DecayedBeta, lambda x: x > 0),
    ("a", lambda x: DecayedBeta(a=x), lambda x: 0 < x < math.inf),
    ("b", lambda x: DecayedBeta(b=x), lambda x: 0 < x < math.inf),
    ("floor", lambda x: MixCD(floor=x), lambda x: 0 <= x <= 1),
    ("wrong_share", lambda x: MixCD(wrong_share=x), lambda x: 0 <= x < 1),
    ("floor", lambda x: LossProportional(floor=x), lambda x: 0 <= x <= 1),
    ("temperature", lambda x: PredictedForgetting(temperature=x), lambda x: x > 0),
    ("ridge", lambda x: PredictedForgetting(ridge=x), lambda x: 0 < x < math.inf),
    ("halflife_steps", lambda x: PredictedForgetting(halflife_steps=x), lambda x: x > 0),
    ("uniform_share", lambda x: Oracle(uniform_share=x), lambda x: 0 <= x <= 1),
    ("mix_ratio", Ration, lambda x: 0 < x <= 16),
    ("rates", lambda x: Static([0.5, x]), lambda x: 0 <= x <= 1),
    ("mix_ratio", lambda x: RehearsalCallback(Uniform(), mix_ratio=x), lambda x: 0 < x <= 16),
    ("mix_ratio", lambda x: RehearsalDataModule(Finetune(), POOL, mix_ratio=x), lambda x: 0 < x <= 16),
    ("rehearsal_weight", lambda x: RehearsalCallback(Uniform(), rehearsal_weight=x), finite_from_0),
    ("max_compute_units", lambda x: RehearsalCallback(Uniform(), max_compute_units=x), lambda x: x >= 1),
    ("tolerance", lambda x: Readout(tolerance=x), finite_from_0),
    ("sharpness", lambda x: HeadProbe(sharpness=x), finite_from_0),
    ("importance", lambda x: HeadProbe(importance=x), lambda x: 0 <= x <= 1),
    ("uniform_share", lambda x: ProbeMatching(uniform_share=x), lambda x: 0 <= x <= 1),
    ("learning_rate", lambda x: MIR(learning_rate=x), lambda x: 0 < x < math.inf),
    ("strength", EWC, finite_from_0),
    ("decay", lambda x: EWC(decay=x), lambda x: 0 <= x <= 1),
    ("alpha", L2SP, finite_from_0),
    ("beta", lambda x: DER(beta=x), finite_from_0),
    ("tau", Flow, lambda x: x > 0),
    ("margin", lambda x: GEM(ByLabel(), margin=x), finite_from_0),
    ("temperature", lambda x: Distillation(temperature=x), lambda x: 0 < x < math.inf),
    ("start", lambda x: Ramp(3, start=x), lambda x: 0 <= x <= 1),
    ("target", HoldRetention, lambda x: 0 < x < 1),
    ("most_active", lambda x: SelectiveLoRA(most_active=x), lambda x: 0 < x <= 1),
]
INTEGERS = [
    ("n_bins", ByLossQuantile, lambda n: n >= 1),
    ("n_bins", ByCluster, lambda n: n >= 1),
    ("every_n_steps", lambda n: LossProportional(every_n_steps=n), lambda n: n >= 1),
    ("candidates_per_row", lambda n: HighestLoss(candidates_per_row=n), lambda n: n >= 1),
    ("candidates_per_row", lambda n: PredictedForgetting(candidates_per_row=n), lambda n: n >= 1),
    ("rank", lambda n: PredictedForgetting(rank=n), lambda n: n >= 1),
    ("memory_size", GDumbMemory, lambda n: n >= 1),
    ("compared", lambda n: GSSMemory(1, compared=n), lambda n: n >= 1),
    ("every_n_steps", lambda n: Oracle(every_n_steps=n), lambda n: n >= 1),
    ("n", EveryNSteps, lambda n: n >= 1),
    ("first", lambda n: EveryNSteps(first=n), lambda n: n >= 0),
    ("last", lambda n: EveryNSteps(first=5, last=n), lambda n: n > 5),
    ("num_workers", lambda n: Pool(range(3), num_workers=n, lag=8), lambda n: 0 <= n <= 4),
    ("lag", lambda n: Pool(range(3), num_workers=2, lag=n), lambda n: n >= 4),
    ("candidates_per_row", lambda n: ScreenDamaged(candidates_per_row=n), lambda n: n >= 2),
    ("k", lambda n: ASER(k=n), lambda n: n >= 1),
    ("rank", lambda n: HeadProbe(rank=n), lambda n: n >= 1),
    ("n_samples", lambda n: MAS(n_samples=n), lambda n: n >= 1),
    ("n_classes", lambda n: Distillation(n_classes=n), lambda n: n >= 2),
    ("steps", Ramp, lambda n: n >= 1),
    ("day", ExpandingIntervals, lambda n: n >= 1),
    ("burst", lambda n: ModelTime(burst=n), lambda n: n >= 1),
    ("steps", lambda n: HeadFirst("head", steps=n), lambda n: n >= 1),
    ("rank", lambda n: LoRA(rank=n), lambda n: n >= 1),
]
# Whole numbers that have no range.
SEEDS = [
    ("seed", lambda n: RehearsalCallback(Uniform(), seed=n)),
    ("order_seed", lambda n: RehearsalDataModule(Finetune(), POOL, order_seed=n)),
    ("seed", lambda n: Shuffled(Single(), seed=n)),
    ("min_bin_size", lambda n: Product([Single()], min_bin_size=n)),
]
# What is no number at all.
OTHERS = [
    ("readout", lambda x: RehearsalCallback(Uniform(), readout=x)),
    ("pool", Pool),
    ("pool", lambda x: RehearsalCallback(Uniform(), pool={"train": x})),
    ("collate_fn", lambda x: Pool(POOL, collate_fn=x)),
    ("correctness", lambda x: Readout(correctness=x)),
    ("step", lambda x: Readout(step=x)),
    ("partition", ClassBalanced),
    ("partition", Shuffled),
    ("partition", GEM),
    ("parts", lambda x: Product([x])),
    ("ledger", lambda x: trainer(RehearsalCallback(Uniform(), pool=POOL, ledger=[x])).fit(Toy(), POOL)),
]


def check(name, make, allowed, value):
    if allowed(value):
        make(value)
    else:
        with pytest.raises(ValueError, match=rf"`{name}`.*got .*"):
            make(value)


@pytest.mark.parametrize(("name", "make", "allowed"), FLOATS)
@settings(max_examples=40)
@given(
    x=st.floats(-20, 20, width=32)
    | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 16.0, 5e-324])
)
def test_numbers(name, make, allowed, x):
    check(name, make, allowed, x)


@pytest.mark.parametrize(("name", "make", "allowed"), INTEGERS)
@settings(max_examples=40)
@given(n=st.integers(-20, 20) | st.sampled_from([-(2**63), 2**63, 10**30]))
def test_whole_numbers(name, make, allowed, n):
    check(name, make, allowed, n)


@pytest.mark.parametrize("value", ["0.5", [0.5], True, object()])
@pytest.mark.parametrize(("name", "make"), [row[:2] for row in FLOATS if row[0] != "rates"])
def test_what_is_no_number_is_refused_by_name(name, make, value):
    with pytest.raises(TypeError, match=rf"`{name}` must be a number, got .*"):
        make(value)


@pytest.mark.parametrize("value", ["5", [5], True, 5.0, math.nan])
@pytest.mark.parametrize(("name", "make"), [*(row[:2] for row in INTEGERS), *SEEDS])
def test_what_is_no_whole_number_is_refused_by_name(name, make, value):
    with pytest.raises(TypeError, match=rf"`{name}` must be a whole number, got .*"):
        make(value)


@pytest.mark.parametrize("number", [np.int64(5), np.int32(5)])
def test_whole_numbers_of_numpy_are_whole_numbers(number):
    check_whole(n=number)
    check_number(n=number, x=np.float32(0.5), y=Fraction(1, 2))


@pytest.mark.parametrize(("name", "make"), OTHERS)
def test_what_is_something_else_is_refused_by_name(name, make):
    with pytest.raises(TypeError, match=rf"`{name}` must .*, got .*\. .*"):
        make("something")
