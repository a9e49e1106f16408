"""Fetching from pools that cannot read some of their samples, and pools that draw chance."""

import random
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

from lightning_mixcd import Ledger, Pool, PoolError
from lightning_mixcd.data.pool_fetch import PoolFetch, draws_chance
from lightning_mixcd.data.stream import PoolStream
from lightning_mixcd.strategies import MixCD, Uniform

N = 40


class Holed:
    """Each sample is its index; some cannot be read."""

    def __init__(self, holes, error=OSError, size=N):
        self.holes, self.error, self.size, self.reads = set(holes), error, size, 0

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        self.reads += 1
        if i in self.holes:
            raise self.error(f"no file {i}")
        return i


class HoledInBatches(Holed):
    def __getitems__(self, index):
        return [self[i] for i in index]


def fetch(dataset, index, spare=(), **pool):
    return PoolFetch(Pool(dataset, **pool), seed=0).__getitems__((3, [*index], [*spare]))


@pytest.mark.parametrize("kind", [Holed, HoledInBatches])
@pytest.mark.parametrize("error", [OSError, IndexError, KeyError, StopIteration, ValueError])
def test_unreadable_sample_is_named(kind, error):
    with pytest.raises(
        PoolError, match=rf"{kind.__name__} raised {error.__name__}.*for pool index 7\. Mend"
    ) as caught:
        fetch(kind([7, 9], error), [1, 7, 9])
    assert isinstance(caught.value.__cause__, error)


@pytest.mark.parametrize("kind", [Holed, HoledInBatches])
@given(index=st.lists(st.integers(0, N - 1), min_size=1, max_size=8, unique=True), data=st.data())
def test_others_take_the_places_of_skipped_samples(kind, index, data):
    holes = data.draw(st.sets(st.sampled_from(index)))
    spare = data.draw(st.lists(st.integers(0, N - 1).filter(lambda i: i not in index), max_size=4))
    holes |= data.draw(st.sets(st.sampled_from(spare))) if spare else set()
    usable = [i for i in index if i not in holes] or [i for i in spare if i not in holes]
    if not usable:
        message = f"for pool index {index[0]}.* the {len(index) + len(spare) - 1} others tried in its place"
        with pytest.raises(PoolError, match=message):
            fetch(kind(holes), index, spare, unreadable="skip")
        return
    fetched = fetch(kind(holes), index, spare, unreadable="skip")
    served = index if fetched.instead is None else fetched.instead
    assert fetched.batch.tolist() == served
    assert (fetched.instead is None) == (not holes & {*index})
    assert [i for i in served if i in index] == [i for i in served if i not in spare]
    for asked, got in zip(index, served, strict=True):
        assert got == asked if asked not in holes else got in usable
    # They take turns: no sample is used much more often than another.
    uses = [sum(got == i != asked for asked, got in zip(index, served, strict=True)) for i in usable]
    assert max(uses) - min(uses) <= 1


def test_spare_sample_of_two_draws_takes_one_turn():
    assert fetch(Holed([1, 39]), [1, 39], [0, 0, 2], unreadable="skip").instead == [0, 2]


def test_nothing_is_read_twice_where_all_can_be_read():
    dataset = Holed([])
    fetch(dataset, [4, 2, 0], [1, 3], unreadable="skip")
    assert dataset.reads == 3


@pytest.mark.parametrize(
    "sample",
    [lambda i: {"x": torch.tensor([i, i / 7]), "name": str(i)}, lambda i: (np.float64(i), [i, str(i)]), str],
)
def test_draws_fetched_at_once_are_those_fetched_one_by_one(sample):
    dataset = [sample(i) for i in range(N)]
    requests = [(4, [7, 2, 9], []), (5, [2, 30, 1], []), (6, [0, 5, 2], [])]
    found = PoolFetch(Pool(dataset), seed=None).rounds([requests[:2], [], requests[2:]])
    for fetched, (_, index, _) in zip(found, requests, strict=True):
        assert repr(fetched.batch) == repr(default_collate([dataset[i] for i in index]))


def test_dataset_may_give_a_whole_batch_at_once():
    class Collated:
        def __len__(self):
            return 9

        def __getitem__(self, index):
            raise AssertionError

        def __getitems__(self, index):
            return {"x": torch.tensor(index)}

    fetched = fetch(Collated(), [4, 2], collate_fn=lambda batch: batch)
    assert fetched.batch["x"].tolist() == [4, 2]


class Asked(HoledInBatches):
    """Keeps what it was asked for."""

    def __init__(self, **holed):
        super().__init__(**holed)
        self.asked = []

    def __getitems__(self, index):
        self.asked.append(index)
        return super().__getitems__(index)


@pytest.mark.parametrize(
    ("pool", "seed", "asked"),
    [
        ({}, None, [[1, 2, 3, 4]]),
        ({}, 0, [[1, 2], [3, 4]]),  # chance belongs to its draw
        ({"collate_fn": list}, None, [[1, 2], [3, 4]]),  # it may pad to the longest of a draw
    ],
)
def test_a_round_is_fetched_at_once_where_that_makes_no_difference(pool, seed, asked):
    dataset = Asked(holes=())
    rounds = [[(0, [1, 2], []), (1, [3, 4], [])]]
    assert len([*PoolFetch(Pool(dataset, **pool), seed=seed).rounds(rounds)]) == 2
    assert dataset.asked == asked


def test_unreadable_sample_stops_its_own_draw():
    rounds = PoolFetch(Pool(Holed([4])), seed=None).rounds([[(0, [1, 2], []), (1, [3, 4], [])]])
    assert next(rounds).batch.tolist() == [1, 2]
    with pytest.raises(PoolError, match="pool index 4"):
        next(rounds)


def test_draws_need_not_be_alike():
    dataset = [torch.full((1 + i,), i) for i in range(4)]
    rounds = PoolFetch(Pool(dataset), seed=None).rounds([[(0, [1], []), (1, [3], [])]])
    assert [fetched.batch.tolist() for fetched in rounds] == [[[1, 1]], [[3, 3, 3, 3]]]


@pytest.mark.parametrize("unreadable", ["raise", "skip"])
def test_a_moment_of_failure_is_passed_over(unreadable):
    class Shaky(Holed):
        def __getitem__(self, i):
            self.reads += 1
            if self.reads == 2:
                raise OSError("once")
            return i

    assert fetch(Shaky([]), [5, 6, 7], unreadable=unreadable)[:2] == (pytest.approx([5, 6, 7]), None)


@pytest.mark.parametrize("unreadable", ["raise", "skip"])
def test_errors_of_the_collate_function_pass_as_they_are(unreadable):
    def collate(samples):
        raise ZeroDivisionError("ours")

    with pytest.raises(ZeroDivisionError, match=r"^ours") as caught:
        fetch(Holed([]), [5, 6], collate_fn=collate, unreadable=unreadable)
    if sys.version_info >= (3, 11):
        assert "the pool needs it too: Pool(dataset, collate_fn=...)" in caught.value.__notes__[0]


@pytest.mark.parametrize("word", ["ignore", None])
def test_unknown_word_is_refused(word):
    with pytest.raises(ValueError, match=rf'`unreadable` must be "raise" or "skip", got {word!r}\.'):
        Pool(range(3), unreadable=word)


def test_substitutes_do_not_depend_on_chance_used_up_before_the_failure():
    class Noisy(Holed):
        def __getitem__(self, i):
            noise = torch.rand(())
            return super().__getitem__(i), noise

    def noises(holes, index):
        return fetch(Noisy(holes), index, unreadable="skip").batch[1].tolist()

    assert noises([2], [1, 2, 3]) == noises([], [1, 1, 3])
    state = torch.get_rng_state()
    noises([2], [1, 2, 3])
    assert torch.equal(torch.get_rng_state(), state)


# In the stream.

LEDGER = Ledger.from_arrays(correct=np.arange(N) % 3 != 0, loss=np.arange(N) / N)


def stream(dataset, strategy=None, **pool):
    strategy = strategy or Uniform()
    strategy.setup(N, LEDGER, seed=0)
    return PoolStream(Pool(dataset, **{"lag": 4, **pool}), strategy, {"base_correct": LEDGER.correct})


def taken(stream, n_steps=30, n=2):
    stream.begin(n)
    rows = [stream.take(n) for _ in range(n_steps)]
    stream.close()
    return [(row["batch"].tolist(), row["ticket"]["index"].tolist()) for row in rows]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_learnt_belongs_to_the_sample_that_was_served(num_workers, n):
    holes = {3, 11, 12}
    with pytest.warns(
        UserWarning, match=r"Pool index (3|11|12) cannot be read \(OSError.*other samples are"
    ) as warned:
        found = taken(stream(Holed(holes), num_workers=num_workers, unreadable="skip"), n=n)
    assert len(warned) == 1
    assert all(batch == index for batch, index in found)
    plain = taken(stream(Holed([])), n=n)
    for (_, index), (_, asked) in zip(found, plain, strict=True):
        assert [got for got, i in zip(index, asked, strict=True) if i not in holes] == [
            i for i in asked if i not in holes
        ]
        assert not holes & {*index}


@pytest.mark.filterwarnings("ignore:Pool index")
def test_substitutes_are_samples_that_the_strategy_may_draw():
    holes = {i for i in range(N) if i % 4 == 1}
    found = taken(stream(Holed(holes), MixCD(), unreadable="skip", lag=16), n=1)
    assert {i for _, [i] in found} <= {i for i in range(N) if i % 3 and i % 4 != 1}


@pytest.mark.filterwarnings("ignore:Pool index")
def test_substitutes_do_not_depend_on_workers_and_are_the_same_after_a_resume():
    def run(num_workers):
        return stream(Holed(range(0, N, 3)), num_workers=num_workers, unreadable="skip")

    whole = taken(run(0), n=3)
    assert taken(run(2), n=3) == whole
    first, second = run(0), run(0)
    begun = taken(first, n_steps=7, n=3)
    second.load_state_dict(first.state_dict(first.place), first.place.numbers()[None])
    assert begun + taken(second, n_steps=23, n=3) == whole


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_run_stops_where_nothing_is_skipped(num_workers):
    run = stream(Holed({11}), num_workers=num_workers, random=False)
    with pytest.raises(PoolError, match="for pool index 11"):
        taken(run)


# Chance.


def global_states():
    numpy_state = [np.asarray(part).tolist() for part in np.random.get_state()]  # noqa: NPY002 -- the global state is what is tested
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


class OneDraw:
    """Draws a single number from one of the three generators."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return 100

    def __getitem__(self, i):
        return self.draw()


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_a_single_random_number_is_noticed_and_leaves_no_trace(draw):
    before = global_states()
    assert draws_chance(Pool(OneDraw(draw)))
    assert draws_chance(Pool(OneDraw(lambda: 1), lambda rows: [draw() for _ in rows]))
    assert not draws_chance(Pool(OneDraw(lambda: 1)))
    assert global_states() == before


def test_probing_works_on_pools_smaller_than_the_probe():
    assert not draws_chance(Pool([1.0, 2.0]))


@pytest.mark.parametrize("unreadable", ["raise", "skip"])
def test_probing_keeps_to_what_is_said_of_unreadable_samples(unreadable):
    pool = Pool(Holed([0]), unreadable=unreadable)
    if unreadable == "skip":
        assert not draws_chance(pool)
    else:
        with pytest.raises(PoolError, match=re.escape("OSError('no file 0') for pool index 0")):
            draws_chance(pool)
