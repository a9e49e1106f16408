"""Rehearsal by how far the weights have moved, against a clock that is kept the slow way."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_mixcd.schedules import ModelTime, model_time

DAYS = [1, 2, 4, 7, 15, 30, 60, 120]


def moved(module, length):
    """Move all parameters, frozen ones too, such that the trainable ones move by `length`."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) if not parameter.requires_grad else 0)
        trainable = [p for p in module.parameters() if p.requires_grad]
        directions = [torch.randn_like(p) for p in trainable]
        norm = sum(float(d.double().square().sum()) for d in directions) ** 0.5
        for parameter, direction in zip(trainable, directions, strict=True):
            parameter.add_(direction * (length / norm))


def network():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    module[0].bias.requires_grad_(False)
    return module


def rehearsed(schedule, module, lengths):
    """Steps that are rehearsed in a training that moves by these lengths."""
    steps = []
    for step, length in enumerate(lengths):
        assert schedule(step) == schedule(step)
        if schedule(step):
            steps.append(step)
        moved(module, length)
        schedule.after_step(module)
    return steps


def slow(lengths, *, day, burst, lag):
    """The same steps, of the lengths themselves."""
    clock = [sum(lengths[: i + 1]) for i in range(len(lengths))]
    start = next((i for i in range(day - 1, len(lengths)) if clock[i] > 0), len(lengths))
    begun = []
    for n in DAYS:
        reached = [i for i in range(start, len(lengths)) if clock[i] >= n * clock[start] * (1 - 1e-9)]
        # One burst begins per step at most: of days that pass together, the next begins a step later.
        begun += [max(reached[0], begun[-1] + 1 if begun else 0)] if reached else []
    steps = {i + 1 + lag + offset for i in begun for offset in range(burst)}
    return sorted(step for step in steps if step < len(lengths))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0, 4.0]), min_size=1, max_size=60),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 5),
)
def test_as_a_clock_that_is_kept_slowly(lengths, day, burst, lag):
    # Not on the edge of a day, where rounding decides.
    lengths = [length * (1 + 1e-3 * i) for i, length in enumerate(lengths)]
    schedule, module = ModelTime(day, burst=burst, lag=lag), network()
    schedule.setup(module)
    assert rehearsed(schedule, module, lengths) == slow(lengths, day=day, burst=burst, lag=lag)


def test_even_movement_is_the_clock_of_steps():
    schedule, module = ModelTime(10, burst=2, lag=1), network()
    schedule.setup(module)
    steps = rehearsed(schedule, module, [1.0] * 10 + [1.0 + 1e-9] * 100)
    assert steps == [11, 12, 21, 22, 41, 42, 71, 72]


def test_days_are_longer_where_the_weights_rest():
    schedule, module = ModelTime(4, lag=1), network()
    schedule.setup(module)
    steps = rehearsed(schedule, module, [1.0] * 4 + [0.1] * 100)
    assert steps[0] == 5
    assert 40 <= steps[1] - steps[0] <= 41


def test_parameters_may_get_other_memory():
    lengths = [1.0 + 1e-3 * i for i in range(30)]
    schedule, module = ModelTime(3, lag=1), network()
    schedule.setup(module)
    steps = []
    for step, length in enumerate(lengths):
        steps += [step] * schedule(step)
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()  # as SAM puts weights back
        moved(module, length)
        schedule.after_step(module)
    assert steps == slow(lengths, day=3, burst=1, lag=1)


def test_resumed_clock_goes_on():
    lengths = [random.Random(7).choice([0.1, 1.0, 3.0]) for _ in range(80)]
    torch.manual_seed(0)
    whole, module = ModelTime(5, burst=3, lag=4), network()
    whole.setup(module)
    found = [rehearsed(whole, module, lengths)]
    for cut in (3, 6, 21, 40):
        torch.manual_seed(0)
        first, second, module = ModelTime(5, burst=3, lag=4), ModelTime(5, burst=3, lag=4), network()
        first.setup(module)
        before = rehearsed(first, module, lengths[:cut])
        state = first.state_dict()
        second.setup(module)  # the weights are those of the checkpoint
        second.load_state_dict(state)
        after = []
        for step, length in enumerate(lengths[cut:], start=cut):
            if second(step):
                after.append(step)
            moved(module, length)
            second.after_step(module)
        found.append(before + after)
    assert all(steps == found[0] for steps in found)
    assert len(found[0]) > 10


def test_state_loads_without_pickles(tmp_path):
    schedule, module = ModelTime(2, lag=2), network()
    schedule.setup(module)
    rehearsed(schedule, module, [1.0] * 5)
    torch.save(schedule.state_dict(), tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True) == schedule.state_dict()


def test_setup_begins_anew():
    schedule, module = ModelTime(2, lag=1), network()
    schedule.setup(module)
    first = rehearsed(schedule, module, [1.0] * 9)
    schedule.setup(module)
    assert rehearsed(schedule, module, [1.0] * 9) == first


def test_reads_only_what_was_noted_long_ago(late, monkeypatch):
    monkeypatch.setattr(late, "age", 3)
    schedule, module = ModelTime(2, lag=3), network()
    schedule.setup(module)
    assert rehearsed(schedule, module, [1.0] * 20)


def test_half_precision_is_measured_in_full():
    module = nn.Linear(300, 300, dtype=torch.bfloat16)
    schedule = ModelTime(1, lag=1)
    schedule.setup(module)
    before = [p.detach().double().clone() for p in module.parameters()]
    moved(module, 2.0)
    after = [p.detach().double() for p in module.parameters()]
    exact = sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True)) ** 0.5
    schedule.after_step(module)
    assert schedule.state_dict()["pending"][0] == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize("argument", ["day", "burst", "lag"])
def test_numbers_below_one_are_refused(argument):
    with pytest.raises(ValueError, match=rf"`{argument}` must be at least 1, got 0"):
        ModelTime(**{argument: 0})


def test_sharded_parameters_are_refused(monkeypatch):
    class Part(nn.Parameter):
        pass

    monkeypatch.setattr(model_time, "DTensor", Part)
    module = nn.Linear(2, 2, bias=False)
    module.weight = Part(module.weight.detach())
    with pytest.raises(
        ValueError, match=r"must see whole parameters, got parts of `weight`.*ExpandingInterval"
    ):
        ModelTime().setup(module)
