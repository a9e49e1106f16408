"""Draws in proportion to weights: the law of drawing one after the other, by hand."""

from itertools import permutations

import numpy as np
import pytest
import torch

from lightning_mixcd.strategies._weighted import Weighted
from tests.oracles.chance import fits


def chances(weights, n):
    """The chance of each set of n, summed over the orders in which it can be drawn."""
    found = {}
    for order in permutations(range(len(weights)), n):
        chance, left = 1.0, sum(weights)
        for i in order:
            chance, left = chance * weights[i] / left, left - weights[i]
        found[frozenset(order)] = found.get(frozenset(order), 0.0) + chance
    return found


def many(weighted, n, n_draws):
    generator = torch.Generator().manual_seed(0)
    return [weighted.draw(n, generator=generator).tolist() for _ in range(n_draws)]


EVEN, RISING = [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0]
# A second sample is hit so seldom that the clocks take over.
STEEP = [9.0, 3e-3, 2e-3, 1e-3]


@pytest.mark.parametrize(
    ("weights", "n"),
    [(EVEN, 2), (RISING, 1), (RISING, 2), (RISING, 3), (STEEP, 2), (STEEP, 3)],
)
def test_sets_come_up_as_if_drawn_one_after_the_other(weights, n):
    expected = chances(weights, n)
    drawn = [frozenset(draw) for draw in many(Weighted(np.array(weights)), n, 4000)]
    likely = [some for some in expected if expected[some] > 1e-2]
    assert fits([drawn.count(some) for some in likely], [expected[some] for some in likely])


@pytest.mark.parametrize("n", [1, 3, 6])
def test_draws_are_distinct(n):
    weighted = Weighted(np.array([1.0, 0.0, 1e-9, 50.0, 1e9, 0.3]))
    assert all(len(set(draw)) == n for draw in many(weighted, n, 200))


def test_samples_without_weight_come_last_and_alike():
    drawn = many(Weighted(np.array([0.0, 0.0, 5.0, 0.0, 1.0])), 3, 900)
    assert all({2, 4} <= set(draw) for draw in drawn)
    found = np.bincount([i for draw in drawn for i in draw], minlength=5)
    assert fits(found[[0, 1, 3]])


@pytest.mark.parametrize("weights", [[0.0] * 5, [7.0] * 5])
def test_without_any_weight_all_are_alike(weights):
    drawn = many(Weighted(np.array(weights)), 2, 1000)
    assert fits(np.bincount([i for draw in drawn for i in draw], minlength=5))


def test_what_is_not_drawable_is_never_drawn():
    drawable = np.array([True, False, True, False, True])
    weighted = Weighted(np.array([0.0, 9.0, 1.0, 9.0, 0.0]), drawable=drawable)
    assert all(sorted(draw) == [0, 2, 4] for draw in many(weighted, 3, 50))
    only = Weighted(np.array([0.0, 9.0, 0.0, 9.0, 0.0]), drawable=drawable)
    found = np.bincount([i for draw in many(only, 1, 600) for i in draw], minlength=5)
    assert not found[[1, 3]].any()
    assert fits(found[[0, 2, 4]])


@pytest.mark.parametrize("floor", [0.0, 0.3, 1.0])
def test_floor_is_the_share_that_is_uniform(floor):
    weights, drawable = np.array([1.0, 0.0, 6.0, 3.0, 100.0]), np.array([True, True, True, True, False])
    found = np.bincount(
        np.ravel(many(Weighted(weights, drawable=drawable, floor=floor), 1, 4000)), minlength=5
    )
    expected = (1 - floor) * weights[:4] / 10 + floor / 4
    assert found[4] == 0
    assert fits(found[:4][expected > 0], expected[expected > 0])
    assert not found[:4][expected == 0].any()


def test_weights_stay_as_they_were():
    weights = np.array([1.0, 2.0, 3.0])
    Weighted(weights, drawable=np.array([True, False, True]), floor=0.5)
    assert weights.tolist() == [1.0, 2.0, 3.0]
