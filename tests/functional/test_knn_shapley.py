"""Shapley values, against the definition: every sample's marginal gain over all subsets."""

from itertools import combinations
from math import comb

import pytest
import torch

from lightning_mixcd.functional import knn_shapley


def earned(members, distance, same, k):
    """What a set of samples earns at one point."""
    nearest = sorted(members, key=lambda j: (distance[j], j))[:k]
    return sum(same[j] for j in nearest) / k


def by_definition(distance, same, k):
    n = len(distance)
    values = []
    for j in range(n):
        others = [i for i in range(n) if i != j]
        values.append(
            sum(
                (earned((*some, j), distance, same, k) - earned(some, distance, same, k))
                / comb(n - 1, size)
                / n
                for size in range(n)
                for some in combinations(others, size)
            )
        )
    return values


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("k", [1, 2, 3, 10])
@pytest.mark.parametrize("ties", [False, True])
def test_values_are_those_of_the_definition(n, k, ties):
    generator = torch.Generator().manual_seed(n)
    distance = torch.rand(3, n, generator=generator)
    distance = (3 * distance).round() if ties else distance
    same = torch.rand(3, n, generator=generator) < 0.5
    expected = [by_definition(d, s, k) for d, s in zip(distance.tolist(), same.tolist(), strict=True)]
    assert torch.allclose(knn_shapley(distance, same, k), torch.tensor(expected), atol=1e-6)


def test_values_sum_to_what_all_earn():
    generator = torch.Generator().manual_seed(0)
    distance, same = torch.rand(20, 300, generator=generator), torch.rand(20, 300, generator=generator) < 0.4
    total = [earned(range(300), d, s, 5) for d, s in zip(distance.tolist(), same.int().tolist(), strict=True)]
    assert torch.allclose(knn_shapley(distance, same, 5).sum(1), torch.tensor(total), atol=1e-5)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_default_dtype_of_the_user_does_not_matter(default):
    distance, same = torch.arange(40.0).view(2, 20), torch.arange(40).view(2, 20) % 3 == 0
    expected = knn_shapley(distance, same, 3)
    torch.set_default_dtype(default)
    try:
        found = knn_shapley(distance, same, 3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == expected.dtype == torch.float32
    assert torch.equal(found, expected)


def test_order_of_samples_does_not_matter():
    generator = torch.Generator().manual_seed(0)
    distance, same = torch.rand(4, 30, generator=generator), torch.rand(4, 30, generator=generator) < 0.4
    order = torch.randperm(30, generator=generator)
    assert torch.allclose(
        knn_shapley(distance[:, order], same[:, order], 3), knn_shapley(distance, same, 3)[:, order]
    )
