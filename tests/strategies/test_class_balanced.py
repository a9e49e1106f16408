"""Classes alike, whatever their sizes."""

import numpy as np

from lightning_mixcd.partitions import ByColumn
from lightning_mixcd.strategies import ClassBalanced
from tests.oracles.chance import fits
from tests.strategies.drawing import counts, labelled, started


def test_a_sample_is_as_likely_as_its_class_is_small():
    sizes = (60, 25, 15)
    found = counts(started(ClassBalanced(), labelled(*sizes)), 100, 6, 1500)
    assert fits(found, np.repeat(1 / np.array(sizes), sizes))


def test_wrong_samples_belong_to_their_class():
    found = counts(started(ClassBalanced(), labelled(5, 10, wrong=5)), 20, 4, 800)
    assert fits(found, [1] * 20)


def test_a_class_that_is_used_up_leaves_its_share_to_the_others():
    found = counts(started(ClassBalanced(), labelled(1, 30)), 31, 20, 50)
    assert found[0] == 50
    assert found.sum() == 1000


def test_any_column_can_be_balanced():
    ledger = labelled(30, 10).with_columns(source=["web"] * 36 + ["book"] * 4)
    found = counts(started(ClassBalanced(ByColumn("source")), ledger), 40, 2, 1500)
    assert fits([found[:36].sum(), found[36:].sum()])
