"""Bins where partitions cross."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByColumn, Product

rows = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=40)


def bins(rows, min_bin_size=0, correct=None):
    columns = dict(zip("abc", zip(*rows, strict=True), strict=False))
    correct = [True] * len(rows) if correct is None else correct
    ledger = Ledger.from_arrays(correct=correct, loss=[0.1] * len(rows), **columns)
    return Product([ByColumn(name) for name in columns], min_bin_size=min_bin_size).bins(ledger).tolist()


@given(rows)
def test_one_bin_per_combination_that_exists(rows):
    pairs = set(zip(rows, bins(rows), strict=True))
    assert len(pairs) == len({row for row, _ in pairs}) == len({bin_ for _, bin_ in pairs})


def test_small_types_do_not_run_over():
    # Twenty by twenty by two bins: each fits into a byte, their combinations do not.
    rows = [(i % 20, i // 20 % 20, i // 400) for i in range(800)]
    assert bins(rows) == [2 * (20 * a + b) + c for a, b, c in rows]


@given(rows, st.integers(0, 5), st.data())
def test_rare_combinations_share_one_bin_and_common_ones_keep_theirs(rows, least, data):
    correct = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    members = Counter(row for row, right in zip(rows, correct, strict=True) if right)
    found = bins(rows, least, correct)
    rare = {bin_ for row, bin_ in zip(rows, found, strict=True) if members[row] < least}
    common = {(row, bin_) for row, bin_ in zip(rows, found, strict=True) if members[row] >= least}
    assert len(rare) <= 1
    assert len(common) == len({row for row, _ in common}) == len({bin_ for _, bin_ in common} - rare)


def test_nothing_to_cross_is_refused():
    with pytest.raises(
        ValueError, match=r"`parts` must hold a partition or more, got none\. Use `Single\(\)`"
    ):
        Product([])
