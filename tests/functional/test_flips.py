"""Rates of flips against a count of one sample at a time, and the laws that tie them together."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.functional import flips
from tests.oracles import flips as oracle

NAMES = ["collateral_damage_rate", "retention", "negative_flip_rate", "positive_flip_rate", "forgetting"]
# Pairs of (base correct, correct now).
samples = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40)


def flags(pairs):
    base_correct, correct = ([pair[side] for pair in pairs] for side in (0, 1))
    return torch.tensor(base_correct, dtype=torch.bool), torch.tensor(correct, dtype=torch.bool)


def rates(pairs):
    return {name: getattr(flips, name)(*flags(pairs)).item() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
@given(pairs=samples)
def test_rates_equal_the_count_of_one_sample_at_a_time(name, pairs):
    expected = getattr(oracle, name)(*(column.tolist() for column in flags(pairs)))
    assert getattr(flips, name)(*flags(pairs)).item() == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_table_says_base_then_now():
    pairs = [(False, False)] + [(False, True)] * 2 + [(True, False)] * 3 + [(True, True)] * 4
    table = flips.flip_table(*flags(pairs))
    assert table.dtype == torch.int64
    assert table.tolist() == [[1, 2], [3, 4]]


@given(samples)
def test_table_is_transposed_when_the_models_change_places(pairs):
    base_correct, correct = flags(pairs)
    assert torch.equal(flips.flip_table(correct, base_correct), flips.flip_table(base_correct, correct).T)


@given(samples, st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    assert torch.equal(flips.flip_table(*flags(pairs)), flips.flip_table(*flags(shuffled)))


@given(samples)
def test_laws(pairs):
    rate = rates(pairs)
    approx = pytest.approx
    assert rate["retention"] == approx(1 - rate["collateral_damage_rate"], abs=1e-6, nan_ok=True)
    difference = rate["negative_flip_rate"] - rate["positive_flip_rate"]
    assert rate["forgetting"] == approx(difference, abs=1e-6, nan_ok=True)
    assert not rate["negative_flip_rate"] > rate["collateral_damage_rate"]


@given(samples.filter(bool))
def test_changing_places_turns_the_flips_around(pairs):
    there, back = rates(pairs), rates([(now, base) for base, now in pairs])
    assert there["negative_flip_rate"] == back["positive_flip_rate"]
    assert there["forgetting"] == -back["forgetting"]


@given(samples.filter(bool))
def test_an_unchanged_model_forgets_nothing(pairs):
    rate = rates([(base, base) for base, _ in pairs])
    assert rate["forgetting"] == rate["negative_flip_rate"] == rate["positive_flip_rate"] == 0
    assert not rate["collateral_damage_rate"] > 0


class TestNothingToDivideBy:
    @pytest.mark.parametrize("name", NAMES)
    def test_no_samples_are_nan(self, name):
        assert math.isnan(rates([])[name])

    def test_rates_of_base_right_are_nan_without_any(self):
        rate = rates([(False, True), (False, False)])
        assert math.isnan(rate["collateral_damage_rate"])
        assert math.isnan(rate["retention"])
        assert rate["forgetting"] == -0.5


@pytest.mark.parametrize("name", NAMES)
def test_rates_are_float32_in_a_bfloat16_run(name):
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert getattr(flips, name)(*flags([(True, False)])).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_nothing_waits_for_the_device():
    base_correct, correct = (torch.zeros(3, dtype=torch.bool, device="meta") for _ in range(2))
    assert flips.flip_table(base_correct, correct).shape == (2, 2)


@pytest.mark.parametrize("name", ["flip_table", *NAMES])
class TestRefusals:
    def test_numbers_in_place_of_bools(self, name):
        flag = torch.ones(2, dtype=torch.bool)
        with pytest.raises(
            TypeError, match=r"`base_correct` must be a bool tensor, got torch.int64\. Compare first"
        ):
            getattr(flips, name)(flag.long(), flag)
        with pytest.raises(
            TypeError, match=r"`correct` must be a bool tensor, got torch.float32\. Compare first"
        ):
            getattr(flips, name)(flag, flag.float())

    def test_lists_in_place_of_tensors(self, name):
        with pytest.raises(
            TypeError, match=r"`base_correct` must be a bool tensor, got list\. Compare first"
        ):
            getattr(flips, name)([True], [True])

    def test_more_dims(self, name):
        flag = torch.ones(2, dtype=torch.bool)
        with pytest.raises(
            ValueError, match=r"`correct` .* shape \(N,\), got \(2, 1\)\. Reduce .*`\.all\(dim=1\)`"
        ):
            getattr(flips, name)(flag, flag[:, None])
        with pytest.raises(ValueError, match=r"`base_correct` .* shape \(N,\), got \(\)\. Reduce"):
            getattr(flips, name)(flag[0], flag)

    def test_other_lengths(self, name):
        flag = torch.ones(3, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"the same samples, got 3 and 2 entries\. Index the ledger"):
            getattr(flips, name)(flag, flag[:2])

    def test_other_devices(self, name):
        flag = torch.ones(3, dtype=torch.bool)
        with pytest.raises(ValueError, match=r"on one device, got cpu and meta\. Move one"):
            getattr(flips, name)(flag, flag.to("meta"))
