"""Means of weights, against the same means made entry by entry."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lightning_mixcd.weights import interpolate, soup


class Tied(nn.Module):
    """Everything that makes averaging harder: tied weights, buffers of whole numbers, mixed dtypes."""

    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed = nn.Embedding(5, 3)
            self.norm = nn.BatchNorm1d(3)
            self.half = nn.Linear(3, 3, dtype=torch.bfloat16)
            self.head = nn.Linear(3, 5, bias=False)
            self.norm.running_mean.normal_()
        self.head.weight = self.embed.weight
        self.norm.num_batches_tracked.fill_(seed)
        self.register_buffer("mask", torch.tensor([seed % 2 == 0, True]))


@given(st.floats(0, 1))
def test_interpolation_is_the_line(alpha):
    base, finetuned = Tied(1).state_dict(), Tied(2).state_dict()
    mixed = interpolate(base, finetuned, alpha)
    assert list(mixed) == list(finetuned)
    for name, value in mixed.items():
        assert value.dtype == finetuned[name].dtype
        if value.is_floating_point():
            line = (1 - alpha) * base[name].double() + alpha * finetuned[name].double()
            eps = torch.finfo(value.dtype).eps
            torch.testing.assert_close(value.double(), line, rtol=4 * eps, atol=4 * eps)
        else:
            assert torch.equal(value, finetuned[name])


def test_ends_of_the_line_are_the_models_themselves():
    base, finetuned = Tied(1).state_dict(), Tied(2).state_dict()
    finetuned["half.bias"].fill_(torch.inf)
    at_base, at_end = interpolate(base, finetuned, 0), interpolate(base, finetuned, 1)
    for name, value in finetuned.items():
        assert torch.equal(at_end[name], value)
        if value.is_floating_point():
            assert torch.equal(at_base[name], base[name])


def test_inputs_are_not_changed_nor_shared():
    base, finetuned = Tied(1), Tied(2)
    mixed = interpolate(base.state_dict(), finetuned.state_dict(), 1)
    mixed["head.weight"].zero_()
    mixed["norm.running_mean"].zero_()
    for module, seed in ((base, 1), (finetuned, 2)):
        for name, value in Tied(seed).state_dict().items():
            assert torch.equal(module.state_dict()[name], value)


def test_tied_weights_stay_tied_and_others_do_not_become_so():
    base, finetuned = Tied(1), Tied(2)
    mixed = interpolate(base.state_dict(), finetuned.state_dict(), 0.5)
    assert mixed["head.weight"] is mixed["embed.weight"]
    finetuned.head.weight = nn.Parameter(torch.zeros(5, 3))  # untied while finetuning
    mixed = interpolate(base.state_dict(), finetuned.state_dict(), 0.5)
    torch.testing.assert_close(mixed["head.weight"], base.head.weight.detach() / 2)
    assert not torch.equal(mixed["head.weight"], mixed["embed.weight"])


def test_small_dtypes_are_added_up_in_full():
    values = torch.linspace(1, 2, 500).bfloat16()
    mean = soup([{"w": value} for value in values])["w"]
    assert mean.dtype == torch.bfloat16
    assert mean == values.double().mean().bfloat16()


def test_result_has_the_finetuned_models_dtype():
    mixed = interpolate({"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0], dtype=torch.float64)}, 0.25)
    assert mixed["w"].dtype == torch.float64
    assert mixed["w"].item() == 1.25


@given(st.integers(1, 6))
def test_soup_is_the_mean(n):
    states = [Tied(seed).state_dict() for seed in range(n)]
    mixed = soup(states)
    for name in ("norm.running_mean", "embed.weight"):
        mean = sum(state[name].double() for state in states) / n
        torch.testing.assert_close(mixed[name].double(), mean, rtol=1e-6, atol=1e-6)
    assert mixed["norm.num_batches_tracked"] == n - 1


def test_soup_of_two_is_the_middle_of_the_line():
    one, two = Tied(1).state_dict(), Tied(2).state_dict()
    middle = interpolate(one, two, 0.5)
    assert all(torch.equal(value, middle[name]) for name, value in soup([one, two]).items())


def test_result_loads():
    module = Tied(3)
    module.load_state_dict(interpolate(Tied(1).state_dict(), Tied(2).state_dict(), 0.5))
    assert module.head.weight is module.embed.weight


def test_other_entries_are_refused():
    base, other = Tied(1).state_dict(), Tied(2).state_dict()
    other["lora.weight"] = torch.ones(1)
    with pytest.raises(
        ValueError, match=r"in one alone: lora\.weight\. Merge adapters into the weights first"
    ):
        interpolate(base, other)
    with pytest.raises(ValueError, match=r"in one alone: lora\.weight"):
        soup([other, base, base])


def test_other_shapes_are_refused():
    with pytest.raises(
        ValueError, match=r"`w` must have the same shape .*, got \(2,\) and \(3,\)\. Leave a head"
    ):
        interpolate({"w": torch.ones(2)}, {"w": torch.ones(3)})


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_points_off_the_line_are_refused(alpha):
    with pytest.raises(ValueError, match=rf"`alpha` must be in \[0, 1\].*, got {alpha}"):
        interpolate({}, {}, alpha)


def test_soup_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`states` must have at least one state dict, got none"):
        soup([])
