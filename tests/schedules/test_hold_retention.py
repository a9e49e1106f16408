"""A controller on toy plants."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_mixcd.schedules import HoldRetention


def made(*args, **settings):
    schedule = HoldRetention(*args, **settings)
    schedule.setup(nn.Identity())
    return schedule


def controlled(schedule, plant, lessons):
    """Shares while a plant answers: `plant(share)` is the damaged share."""
    shares = []
    for step in range(lessons):
        shares.append(schedule(step))
        schedule.learn(torch.tensor(plant(shares[-1])))
    return shares


@pytest.mark.parametrize("target", [0.85, 0.9, 0.95])
def test_finds_the_share_that_holds_the_target(target):
    shares = controlled(made(target), lambda share: 0.3 * math.exp(-3 * share), 300)
    assert 1 - 0.3 * math.exp(-3 * shares[-1]) == pytest.approx(target, abs=1e-3)


def test_finds_it_through_noise_and_inertia():
    generator, damage = torch.Generator().manual_seed(0), 0.0
    schedule, retained = made(0.9, gain=0.2), []
    for step in range(4000):
        damage += 0.1 * (0.3 - 0.25 * schedule(step) - damage)
        seen = torch.rand(32, generator=generator) < damage
        schedule.learn(seen.float().mean())
        retained.append(1 - damage)
    assert sum(retained[1000:]) / 3000 == pytest.approx(0.9, abs=0.01)


@given(
    st.lists(st.floats(0, 1) | st.just(math.nan), max_size=50),
    st.floats(0.01, 0.4),
    st.floats(0.5, 1),
    st.floats(0.01, 10),
)
def test_stays_in_bounds(damage, least, most, gain):
    schedule = made(0.9, gain=gain, least=least, most=most)
    for step, share in enumerate(damage):
        schedule.learn(torch.tensor(share))
        assert least <= schedule(step) <= most


def test_does_not_wind_up():
    schedule = made(0.9, gain=0.5)
    controlled(schedule, lambda share: 1.0, 1000)
    assert schedule(0) == 1.0
    # As soon as the first of these lessons is read, the share falls.
    shares = controlled(schedule, lambda share: 0.0, 5)
    assert shares[HoldRetention.DELAY + 1] < 1.0


def test_lessons_without_rows_change_nothing():
    schedule = made(0.9, gain=0.5)
    controlled(schedule, lambda share: 0.0, 6)
    controlled(schedule, lambda share: math.nan, 10)
    assert schedule(0) == pytest.approx(math.exp(-6 * 0.5 * 0.1))


def test_more_damage_means_more_rehearsal():
    finals = [controlled(made(0.9), lambda share, d=d: d, 10)[-1] for d in (0.0, 0.05, 0.09, 0.5)]
    assert finals == sorted(finals)
    assert finals[0] < finals[-1]


@pytest.mark.parametrize("cut", [0, 1, 2, 7])
def test_resumed_control_goes_on(cut):
    damage = torch.rand(20, generator=torch.Generator().manual_seed(0)) * 0.3
    whole, first, second = made(0.9), made(0.9), made(0.9)
    for share in damage[:cut]:
        first.learn(share)
    second.load_state_dict(first.state_dict())
    for i, share in enumerate(damage):
        whole.learn(share)
        if i >= cut:
            second.learn(share)
            assert whole(0) == second(0)


def test_reads_only_what_was_noted_long_ago(late, monkeypatch):
    monkeypatch.setattr(late, "age", 2)
    assert controlled(made(0.9), lambda share: 0.0, 10)[-1] < 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": 1}, r"`target` must be in \(0, 1\), got 1"),
        ({"gain": 0}, r"`gain` must be in \(0, 100\], got 0"),
        ({"gain": 1000.0}, r"`gain` must be in \(0, 100\], got 1000"),
        ({"least": 0}, r"0 < least < most <= 1, got 0 and 1\.0\. Without rehearsed rows nothing is seen"),
        ({"least": 0.5, "most": 0.5}, r"0 < least < most <= 1, got 0\.5 and 0\.5"),
        ({"most": 1.5}, r"0 < least < most <= 1, got 0\.1 and 1\.5"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        HoldRetention(**settings)
