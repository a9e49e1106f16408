"""Toy ledgers and helpers of the conformance suite; what the suite catches is in `tests/conformance`."""

import random

import numpy as np
import pytest
import torch

from lightning_mixcd.testing import _support, toy_ledgers


def test_toy_ledgers_have_the_trouble_that_they_promise():
    toys = toy_ledgers()
    mixed = toys["mixed"]
    counts = np.bincount(mixed.column("label"))
    assert counts.tolist() == [62, 27, 1]
    assert len(np.unique(mixed.loss[mixed.correct])) < mixed.correct.sum() / 2
    assert toys["all correct"].correct.all()
    assert toys["few correct"].correct.sum() == 3
    assert toys["two samples"].size == 2
    assert mixed.column("source").dtype.kind == "U"
    assert mixed.column("features").shape == (90, 2)


def test_toy_ledgers_are_the_same_each_time():
    for a, b in zip(toy_ledgers().values(), toy_ledgers().values(), strict=True):
        assert all(np.array_equal(a.column(name), b.column(name)) for name in a.columns)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (torch.ones(2), torch.ones(2), True),
        (torch.ones(2), torch.ones(2).double(), False),
        (torch.ones(2), torch.ones(1), False),
        ({"a": torch.ones(1)}, {"a": torch.ones(1)}, True),
        ({"a": torch.ones(1)}, {"b": torch.ones(1)}, False),
        ([torch.ones(1)], [], False),
        (None, None, True),
        (None, torch.ones(1), False),
    ],
)
def test_same(a, b, expected):
    assert _support.same(a, b) is expected


@pytest.mark.parametrize("kind", ["random", "numpy", "torch"])
def test_untouched_chance_sees_one_draw(kind):
    draws = {"random": random.random, "numpy": np.random.rand, "torch": lambda: torch.rand(1)}
    message = rf"Part must not use .* but changed \['{kind}'\]'s\. Draw from"
    with pytest.raises(AssertionError, match=message), _support.untouched_chance("Part"):
        draws[kind]()
