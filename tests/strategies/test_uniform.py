"""Every sample alike."""

import numpy as np
import pytest

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.strategies import Uniform, UniformCorrect
from tests.oracles.chance import fits
from tests.strategies.drawing import counts, labelled, started


def test_uniform_draws_wrong_samples_too():
    found = counts(started(Uniform(), labelled(20, wrong=10)), 30, 7, 600)
    assert fits(found)


def test_uniform_needs_no_ledger():
    strategy = Uniform()
    strategy.setup(12, None, seed=0)
    assert counts(strategy, 12, 12, 1).tolist() == [1] * 12


def test_uniform_correct_leaves_out_what_the_base_model_had_wrong():
    found = counts(started(UniformCorrect(), labelled(20, wrong=10)), 30, 7, 600)
    assert not found[20:].any()
    assert fits(found[:20])


def test_every_sample_once_before_any_twice():
    found = counts(started(UniformCorrect(), labelled(100, wrong=10)), 110, 8, 25)
    assert set(found[:100]) == {2}


@pytest.mark.parametrize("ledger", [None, Ledger.from_arrays(correct=[False] * 3, loss=[1.0] * 3)])
def test_a_pool_without_correct_samples_is_refused(ledger):
    message = (
        r"`ledger` must have a sample that the base model got right, got none\. Check that .* use `Uniform`"
    )
    with pytest.raises(ValueError, match=message):
        UniformCorrect().setup(3, ledger, seed=0)


def test_seed_decides_the_order():
    a, b, c = (
        [
            i
            for n in (3, 5)
            for i in np.flatnonzero(counts(started(UniformCorrect(), labelled(40), seed), 40, n, 1))
        ]
        for seed in (0, 0, 1)
    )
    assert a == b != c
