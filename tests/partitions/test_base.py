"""What the base refuses of every partition."""

import numpy as np
import pytest

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import Partition

LEDGER = Ledger.from_arrays(correct=[True] * 4, loss=[0.1] * 4)


class Given(Partition):
    def __init__(self, bins):
        self.given = bins

    def assign(self, ledger):
        return self.given


def test_good_bins_are_handed_on():
    assert Given(np.array([2, 0, 1, 0])).bins(LEDGER).tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        (np.zeros(3, dtype=np.int64), r"int64 of shape \(4,\), .* got int64 of shape \(3,\)"),
        (np.zeros((4, 1), dtype=np.int64), r"got int64 of shape \(4, 1\)"),
        (np.zeros(4, dtype=np.int32), r"`Given\.assign` must return int64 .* got int32 of shape \(4,\)"),
        ([0.0, 1.0, 0.0, 1.0], r"got float64 of shape \(4,\)"),
        (np.array([0, -1, 0, 0]), r"`Given\.assign` must number bins from 0, got -1"),
        (
            np.array([0, 3, 0, 0]),
            r"left bins \[1, 2\] with no member\. Number only bins that exist: `numpy\.unique",
        ),
        (np.array([1, 1, 1, 1]), r"left bins \[0\] with no member"),
    ],
)
def test_bad_bins_are_refused(bins, message):
    with pytest.raises(ValueError, match=message):
        Given(bins).bins(LEDGER)
