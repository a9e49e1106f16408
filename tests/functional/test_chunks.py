"""Counting and placing, a chunk at a time, against the obvious."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.functional import _chunks
from lightning_mixcd.functional._chunks import bin_dtype, bin_sizes, chunks, places

bins = st.lists(st.integers(0, 4), max_size=40)


@given(st.integers(0, 50), st.integers(1, 12))
def test_chunks_cover_all_rows_once_in_order(n, size):
    cut = [list(range(n)[rows]) for rows in chunks(n, size)]
    assert [row for chunk in cut for row in chunk] == list(range(n))
    assert all(len(chunk) == size for chunk in cut[:-1])
    assert all(1 <= len(chunk) <= size for chunk in cut)


@given(st.integers(1, 2**40))
def test_the_type_holds_all_bins_and_minus_one_and_none_smaller_does(n_bins):
    sizes = (1, 2, 4, 8)
    fitting = [size for size in sizes if n_bins - 1 < 2 ** (8 * size - 1)]
    assert bin_dtype(n_bins).kind == "i"
    assert bin_dtype(n_bins).itemsize == fitting[0]


@given(st.lists(st.integers(-1, 4), max_size=40), st.integers(1, 9))
def test_sizes_are_counts(members, size):
    counts = Counter(members)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chunks, "CHUNK", size)
        assert bin_sizes(np.array(members, dtype=np.int8), 5).tolist() == [counts[bin_] for bin_ in range(5)]


@given(bins, st.integers(1, 9))
def test_places_chunk_by_chunk_make_a_stable_sort(members, size):
    counts = np.array([members.count(bin_) for bin_ in range(5)])
    free = counts.cumsum() - counts
    ordered = np.empty(len(members), dtype=np.int64)
    for rows in chunks(len(members), size):
        ordered[places(np.array(members[rows], dtype=np.int8), free)] = range(len(members))[rows]
    assert ordered.tolist() == sorted(range(len(members)), key=members.__getitem__)
    assert free.tolist() == counts.cumsum().tolist()
