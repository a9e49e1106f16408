"""What may be a pool, and how its queue follows from its lag."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_mixcd.data.pool import Pool


class Endless(IterableDataset):
    def __iter__(self):
        yield 1


class SizedStream(Endless):
    def __len__(self):
        return 3


class WithoutLength(Dataset):
    def __getitem__(self, i):
        return i


@given(st.integers(0, 8), st.integers(0, 40))
def test_the_queue_is_as_long_as_the_lag_allows(num_workers, more):
    pool = Pool(range(5), num_workers=num_workers, lag=2 * num_workers + more)
    assert pool.round == max(1, pool.lag // 2)
    if num_workers == 0:
        assert pool.prefetch_factor is None
    else:
        assert pool.prefetch_factor >= 1
        assert pool.round - num_workers < pool.prefetch_factor * num_workers <= pool.round


def test_length_is_that_of_the_dataset():
    assert len(Pool([10, 20, 30])) == 3


@pytest.mark.parametrize("dataset", [Endless(), SizedStream(), WithoutLength(), iter([1])])
def test_what_cannot_be_picked_by_index_is_refused(dataset):
    name = type(dataset).__name__
    with pytest.raises(
        TypeError, match=rf"`pool` must be a map-style dataset with a length, got {name}\. .* Pool\(Streams"
    ):
        Pool(dataset)


def test_loader_is_refused():
    with pytest.raises(TypeError, match=r"`pool` must be a dataset, got a DataLoader\. .*loader\.dataset"):
        Pool(DataLoader([1, 2]))


@pytest.mark.parametrize(
    ("tokenizer", "given", "known"),
    [
        ({"pad_token_id": 3, "padding_side": "right"}, None, {"input_ids": 3}),
        ({"pad_token_id": 3, "padding_side": "right"}, {"input_ids": 0, "x": 1}, {"input_ids": 0, "x": 1}),
        ({"pad_token_id": 3, "padding_side": "left"}, {"x": 1}, {"x": 1}),
        ({"pad_token_id": None, "padding_side": "right"}, None, {}),
        ({}, None, {}),
    ],
)
def test_the_collators_tokenizer_says_what_pads(tokenizer, given, known):
    def collator(samples):
        return samples

    collator.tokenizer = SimpleNamespace(get_vocab=dict, **tokenizer)
    assert Pool([1], collate_fn=collator, pad_values=given).known_pad_values == known
    assert Pool([1], pad_values=given).known_pad_values == (given or {})


@pytest.mark.parametrize(("given", "known"), [(None, 0), ({"labels": 5}, 5)])
def test_the_collator_says_what_pads_labels(given, known):
    def collator(samples):
        return samples

    collator.label_pad_token_id = 0
    assert Pool([1], collate_fn=collator, pad_values=given).known_pad_values == {"labels": known}


def test_empty_pool_is_refused():
    with pytest.raises(ValueError, match=r"`pool` must hold at least one sample, got none"):
        Pool([])


def test_forwards_of_no_sample_are_refused():
    with pytest.raises(ValueError, match=r"^`batch_size` must be at least 1, got 0"):
        Pool(range(5), batch_size=0)


@pytest.mark.parametrize(("num_workers", "lag"), [(-1, 8), (5, 8), (1, 1), (0, -1)])
def test_numbers_out_of_range_are_refused(num_workers, lag):
    message = rf"`num_workers` must be between 0 and half of `lag` \({lag}\), got {num_workers}\. Raise"
    with pytest.raises(ValueError, match=message):
        Pool(range(5), num_workers=num_workers, lag=lag)
