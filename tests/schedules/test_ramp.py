"""Shares that rise or fall."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.schedules import Ramp

shares = st.floats(0, 1)


@given(st.integers(1, 50), shares, shares, st.integers(0, 10), st.sampled_from(["linear", "cosine"]))
def test_from_start_to_end_and_never_back(steps, start, end, first, shape):
    ramp = Ramp(steps, start=start, end=end, first=first, shape=shape)
    values = [ramp(step) for step in range(first + steps + 5)]
    assert values[: first + 1] == [start] * (first + 1)
    assert values[first + steps :] == [end] * 5
    assert all(0 <= share <= 1 for share in values)
    rises = [(later - earlier) * (end - start) for earlier, later in pairwise(values)]
    assert min(rises) >= -1e-12


def test_linear_steps_are_equal():
    ramp = Ramp(8)
    assert [ramp(step) for step in range(9)] == [step / 8 for step in range(9)]


def test_cosine_is_half_a_wave():
    ramp = Ramp(10, start=0.2, end=0.8, shape="cosine")
    for step in range(11):
        assert ramp(step) == pytest.approx(0.5 - 0.3 * math.cos(math.pi * step / 10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, r"`steps` must be at least 1, got 0"),
        ({"steps": 5, "start": -0.1}, r"`start` must be in \[0, 1\], got -0\.1"),
        ({"steps": 5, "end": 2}, r"`end` must be in \[0, 1\], got 2\. Raise `mix_ratio` to rehearse more"),
        ({"steps": 5, "end": math.nan}, r"`end` must be in \[0, 1\], got nan"),
        ({"steps": 5, "shape": "steep"}, r'`shape` must be "linear" or "cosine", got \'steep\''),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Ramp(**settings)
