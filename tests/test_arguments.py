"""Every number that a user may set: what is out of range is refused by name, what is in range is not."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd import (
    DecayedBeta,
    EveryNSteps,
    GDumbMemory,
    GSSMemory,
    HighestLoss,
    LossProportional,
    MixCD,
    Oracle,
    Pool,
    PredictedForgetting,
)
from lightning_mixcd.data.ration import Ration
from lightning_mixcd.estimators import Static
from lightning_mixcd.partitions import ByCluster, ByLossQuantile

# Name, what is made with it, and the range that its docstring promises.
FLOATS = [
    ("halflife_steps", DecayedBeta, lambda x: x > 0),
    ("a", lambda x: DecayedBeta(a=x), lambda x: x > 0),
    ("b", lambda x: DecayedBeta(b=x), lambda x: x > 0),
    ("floor", lambda x: MixCD(floor=x), lambda x: 0 <= x <= 1),
    ("wrong_share", lambda x: MixCD(wrong_share=x), lambda x: 0 <= x < 1),
    ("floor", lambda x: LossProportional(floor=x), lambda x: 0 <= x <= 1),
    ("temperature", lambda x: PredictedForgetting(temperature=x), lambda x: x > 0),
    ("ridge", lambda x: PredictedForgetting(ridge=x), lambda x: x > 0),
    ("halflife_steps", lambda x: PredictedForgetting(halflife_steps=x), lambda x: x > 0),
    ("uniform_share", lambda x: Oracle(uniform_share=x), lambda x: 0 <= x <= 1),
    ("mix_ratio", Ration, lambda x: 0 < x <= 16),
    ("rates", lambda x: Static([0.5, x]), lambda x: 0 <= x <= 1),
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
    ("last", lambda n: EveryNSteps(first=5, last=n), lambda n: n > 5),
    ("num_workers", lambda n: Pool(range(3), num_workers=n, lag=8), lambda n: 0 <= n <= 4),
    ("lag", lambda n: Pool(range(3), num_workers=2, lag=n), lambda n: n >= 4),
]


def check(name, make, allowed, value):
    if allowed(value):
        make(value)
    else:
        with pytest.raises(ValueError, match=rf"`{name}`.* got .*"):
            make(value)


@pytest.mark.parametrize(("name", "make", "allowed"), FLOATS)
@given(
    x=st.floats(-20, 20, width=32)
    | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 16.0, 5e-324])
)
def test_numbers(name, make, allowed, x):
    check(name, make, allowed, x)


@pytest.mark.parametrize(("name", "make", "allowed"), INTEGERS)
@given(n=st.integers(-20, 20) | st.sampled_from([-(2**63), 2**63, 10**30]))
def test_whole_numbers(name, make, allowed, n):
    check(name, make, allowed, n)
