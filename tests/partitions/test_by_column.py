"""Bins by value."""

import numpy as np
import pytest

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByColumn, ByLabel


def ledger(**columns):
    n = len(next(iter(columns.values())))
    return Ledger.from_arrays(correct=[True] * n, loss=[0.1] * n, **columns)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["tv", "law", "tv", "ads"], [2, 1, 2, 0]),
        ([7, -3, 7, 100], [1, 0, 1, 2]),
        (np.array([7, 3, 7, 100], dtype=np.uint8), [1, 0, 1, 2]),
        ([True, False, True, True], [1, 0, 1, 1]),
        (["ünï", "", "ünï", "z"], [2, 0, 2, 1]),
    ],
)
def test_bins_follow_the_sorted_values(values, expected):
    assert ByColumn("genre").bins(ledger(genre=values)).tolist() == expected


def test_the_label_is_a_column():
    labelled = ledger(label=[4, 9, 4], genre=[1, 2, 3])
    assert ByLabel().bins(labelled).tolist() == ByColumn("label").bins(labelled).tolist() == [0, 1, 0]


@pytest.mark.parametrize("values", [[0.5, 1.5], [[1, 2], [3, 4]]])
def test_values_that_are_no_categories_are_refused(values):
    message = (
        r"`column` must name whole numbers or strings, one per sample, but 'x' has dtype .* `ByLossQuantile`"
    )
    with pytest.raises(ValueError, match=message):
        ByColumn("x").bins(ledger(x=values))


def test_a_missing_column_is_named():
    with pytest.raises(LedgerError, match=r"one of \['correct', 'loss', 'x'\], got 'label'"):
        ByLabel().bins(ledger(x=[1, 2]))
