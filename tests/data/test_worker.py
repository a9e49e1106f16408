"""Calls that are made in a loader worker."""

import os
from functools import partial

import pytest
import torch

from lightning_mixcd.data.worker import in_worker


def refuse(message):
    raise KeyError(message)


def test_workers_of_the_pool_say_where_a_function_is_called():
    assert in_worker(os.getpid, 0) == os.getpid() != in_worker(os.getpid, 2)


@pytest.mark.parametrize("result", [None, True, {"size": 3, "values": ["a", "b"]}, (1.0, None)])
def test_results_come_back_as_they_are(result):
    assert repr(in_worker(partial(dict.get, {0: result}, 0), 1)) == repr(result)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_errors_keep_their_kind_and_words(num_workers):
    with pytest.raises(KeyError, match="no such page"):
        in_worker(partial(refuse, "no such page"), num_workers)


def test_chance_here_stays_as_it_is():
    before = torch.get_rng_state()
    in_worker(partial(torch.rand, 1), 1)
    assert torch.equal(torch.get_rng_state(), before)
