"""Partitions that break one rule each: the suite must say which."""

import random

import numpy as np
import pytest

from lightning_mixcd.partitions import ByColumn, Partition
from lightning_mixcd.testing import check_partition, toy_ledgers


class Good(Partition):
    def assign(self, ledger):
        return np.unique(ledger.column("label"), return_inverse=True)[1]


def test_good_partition_passes_as_class_instance_or_function():
    check_partition(Good)
    check_partition(Good())
    check_partition(lambda: Good(), ledger=toy_ledgers()["few correct"])


def test_own_columns_come_with_a_ledger():
    ledger = toy_ledgers()["mixed"].with_columns(genre=["a", "b"] * 45)
    check_partition(ByColumn("genre"), ledger=ledger)
    with pytest.raises(
        AssertionError, match=r"ByColumn refused the ledger to check it on: .* Pass `ledger=`"
    ):
        check_partition(ByColumn("genre"))


class Floats(Good):
    def assign(self, ledger):
        return super().assign(ledger).astype(float)


class Lists(Good):
    def assign(self, ledger):
        return super().assign(ledger).tolist()


class OnlyCorrect(Good):
    def assign(self, ledger):
        return super().assign(ledger)[ledger.correct]


class FromOne(Good):
    def assign(self, ledger):
        return super().assign(ledger) + 1


class Gaps(Good):
    def assign(self, ledger):
        return super().assign(ledger) * 2


class Negative(Good):
    def assign(self, ledger):
        return super().assign(ledger) - 1


class OwnChance(Good):
    def assign(self, ledger):
        return np.random.default_rng().permutation(super().assign(ledger))


class GoesOn(Good):
    def __init__(self):
        self.rng = np.random.default_rng(0)

    def assign(self, ledger):
        return self.rng.permutation(super().assign(ledger))


class GlobalChance(Good):
    def assign(self, ledger):
        random.random()
        return super().assign(ledger)


class SortsLedger(Good):
    def assign(self, ledger):
        ledger.loss.base.sort()
        return super().assign(ledger)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Floats,
            r"`Floats\.assign` must return an array of whole numbers .* got float64 of shape \(90,\)",
        ),
        (
            Lists,
            r"whole numbers of shape \(90,\), one bin per pool sample, got list of shape None",
        ),
        (
            OnlyCorrect,
            r"must return an array of whole numbers of shape \(90,\), .* got int64 of shape \(60,\)",
        ),
        (FromOne, r"must number bins 0 to K-1 and use each number, got \[1, 2, 3\]\. `numpy\.unique"),
        (Gaps, r"must number bins 0 to K-1 and use each number, got \[0, 2, 4\]"),
        (Negative, r"must number bins 0 to K-1 and use each number, got \[-1, 0, 1\]"),
        (
            OwnChance,
            r"`OwnChance\.assign` must give the same bins for the same ledger each time, .* Take a seed",
        ),
        (GoesOn, r"must give the same bins for the same ledger each time"),
        (GlobalChance, r"GlobalChance must not use or seed global random state, but changed \['random'\]'s"),
        (SortsLedger, r"SortsLedger must not change the ledger, but changed \['loss'\]\. Copy it first"),
    ],
)
def test_broken_partition_is_caught(kind, message):
    with pytest.raises(AssertionError, match=message):
        check_partition(kind)


def test_other_things_are_refused():
    with pytest.raises(AssertionError, match=r"Give a Partition or a function that makes one, got 'label'"):
        check_partition("label")
