"""Orthogonal matching pursuit, against one that has the vectors at hand."""

import numpy as np
import pytest
import torch

from lightning_mixcd.functional import matching_pursuit


def pursue(vectors, goal, n, ridge):
    """The same with the vectors themselves, and weights fitted as least squares of longer ones."""
    ridge = ridge * (vectors**2).sum(axis=1).mean()
    chosen, residual = [], goal
    for _ in range(n):
        gains = [-np.inf if i in chosen else float(v @ residual) for i, v in enumerate(vectors)]
        chosen.append(int(np.argmax(gains)))
        some = vectors[chosen].T
        longer = np.vstack([some, np.sqrt(ridge) * np.eye(len(chosen))])
        fitted = np.linalg.lstsq(longer, np.concatenate([goal, np.zeros(len(chosen))]), rcond=None)[0]
        residual = goal - some @ fitted
    return chosen


@pytest.mark.parametrize("ridge", [1e-3, 0.5])
@pytest.mark.parametrize("n", [1, 4, 20])
@pytest.mark.parametrize("seed", range(5))
def test_choice_is_that_of_the_vectors(seed, n, ridge):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(20, 6)) * generator.uniform(0.5, 2, size=(20, 1))
    goal = vectors.mean(axis=0)
    products = torch.from_numpy(vectors @ vectors.T)
    found = matching_pursuit(products, torch.from_numpy(vectors @ goal), n, ridge=ridge)
    assert found.tolist() == pursue(vectors, goal, n, ridge)


def test_the_parts_of_a_sum_are_found():
    vectors = torch.eye(8)[torch.randperm(8, generator=torch.Generator().manual_seed(0))]
    goal = 3 * vectors[5] + 2 * vectors[1] + vectors[6]
    assert matching_pursuit(vectors @ vectors.T, vectors @ goal, 3).tolist() == [5, 1, 6]


def test_what_says_the_same_is_not_chosen_twice_before_anything_else():
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.4]])
    assert set(matching_pursuit(vectors @ vectors.T, vectors @ vectors.mean(0), 2).tolist()) == {0, 3}


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_positions_are_distinct_whatever_the_vectors(value):
    products = torch.full((6, 6), value)
    assert sorted(matching_pursuit(products, products.mean(1), 6).tolist()) == list(range(6))
