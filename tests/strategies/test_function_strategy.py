"""Any function as a strategy."""

import numpy as np
import pytest
import torch

from lightning_mixcd import FunctionStrategy, RehearsalCallback
from tests import toys
from tests.strategies.drawing import draws, labelled, started


@pytest.mark.parametrize(
    "made", [lambda i: i, list, np.array, lambda i: torch.tensor(i), lambda i: np.array(i)[::-1]]
)
def test_whatever_form_the_indices_have(made):
    strategy = started(FunctionStrategy(lambda n, ledger, generator: made(list(range(n)))), labelled(9))
    assert sorted(draws(strategy, 3, 1)[0]) == [0, 1, 2]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n, ledger, generator: [0] * n, r"must return 2 distinct pool indices, got 1 distinct"),
        (lambda n, ledger, generator: [0.5, 1.5], r"as an int64 tensor .*, got torch\.float64"),
        (lambda n, ledger, generator: [3], r"of shape \(2,\) .*, got .* shape \(1,\)"),
        (lambda n, ledger, generator: [3, 9], r"`function` must return pool indices in \[0, 9\), got \[9\]"),
        (
            lambda n, ledger, generator: [3, -1],
            r"`function` must return pool indices in \[0, 9\), got \[-1\]",
        ),
    ],
)
def test_what_is_no_draw_is_refused(function, message):
    with pytest.raises(ValueError, match=message):
        draws(started(FunctionStrategy(function), labelled(9)), 2, 1)


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match=r"`function` must be a function of \(n, ledger, generator\), got 3"):
        FunctionStrategy(3)


def test_it_rehearses_what_the_function_says():
    asked = []

    def first(n, ledger, generator):
        asked.append(ledger)
        return list(range(n))

    module = toys.Toy()
    callback = RehearsalCallback(FunctionStrategy(first), pool=toys.pool(), mix_ratio=0.5)
    toys.trainer(callback).fit(module, toys.Finetune())
    assert all(step == [0, 1, 2, 3] for step in toys.rehearsed(module))
    assert set(asked) == {None}
