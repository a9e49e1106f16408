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


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, np.uint64])
def test_good_bins_are_handed_on(dtype):
    assert Given(np.array([2, 0, 1, 0], dtype=dtype)).bins(LEDGER).tolist() == [2, 0, 1, 0]


@pytest.mark.parametrize("n_bins", [1, 127, 128, 129, 32768, 32769])
def test_bins_come_in_the_smallest_type_that_also_holds_minus_one(n_bins):
    given = np.arange(n_bins)
    bins = Given(given).bins(Ledger.from_arrays(correct=[True] * n_bins, loss=[0.1] * n_bins))
    assert np.array_equal(bins, given)
    fitting = [t for t in (np.int8, np.int16, np.int32) if np.iinfo(t).max >= n_bins - 1]
    assert bins.dtype == fitting[0]


@pytest.mark.parametrize(
    ("bins", "message"),
    [
        (np.zeros(3, dtype=np.int64), r"whole numbers of shape \(4,\), .* got int64 of shape \(3,\)"),
        (np.zeros((4, 1), dtype=np.int64), r"got int64 of shape \(4, 1\)"),
        ([0.0, 1.0, 0.0, 1.0], r"`Given\.assign` must return whole numbers .* got float64 of shape \(4,\)"),
        ([False, True, False, True], r"got bool of shape \(4,\)"),
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
