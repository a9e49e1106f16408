"""The stream of pool rows: the same whoever fetches them, however they are taken, wherever it resumes."""

import gc
import multiprocessing
import random
import weakref

import numpy as np
import pytest
import torch

from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.stream import PoolStream
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.strategies import ClassBalanced, MixCD, Oracle, Strategy, UniformCorrect
from lightning_mixcd.types import Outcome
from tests.data.resuming import Resumable

N = 60
LEDGER = Ledger.from_arrays(
    correct=np.arange(N) % 5 != 0, loss=np.arange(N) / N, label=(np.arange(N) ** 2 % 7).astype(np.int64)
)
STRATEGIES = [
    UniformCorrect,
    ClassBalanced,
    lambda: MixCD(partition=ByLabel()),
    lambda: Oracle(uniform_share=0.4),
]


def chances():
    """A number from each global source of chance."""
    return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002 -- the global state is what is tested


def global_states():
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002 -- the global state is what is tested
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


def flat(lists):
    return [item for items in lists for item in items]


class Samples:
    """Each sample is its index and, if wanted, three random numbers."""

    def __init__(self, noise=False):
        self.noise = noise

    def __len__(self):
        return N

    def __getitem__(self, i):
        if not self.noise:
            return {"x": i}
        return {"x": i, "noise": torch.tensor(chances())}


def masking_collate(samples):
    return {"x": torch.tensor([sample["x"] for sample in samples]), "mask": torch.rand(len(samples), 2)}


def dropping_collate(samples):
    return torch.tensor([sample["x"] for sample in samples[1:]])


class EvenProbe:
    def correct(self, index):
        return index % 2 == 0


class Run(Resumable):
    """A stream and its strategy, which learns and whose signal is noted after every step."""

    def __init__(self, make=UniformCorrect, *, seed=0, rank=0, world_size=1, dataset=None, **pool):
        self.strategy = make()
        self.strategy.setup(N, LEDGER, seed=seed)
        self.stream = PoolStream(
            Pool(dataset or Samples(), **pool),
            self.strategy,
            {"base_correct": LEDGER.correct},
            seed=seed,
            rank=rank,
            world_size=world_size,
        )

    def take(self, n=4):
        if not self.stream.rows_per_draw:
            self.stream.begin(n * self.stream.world_size)
        return self.stream.take(n)

    def step(self, n=4):
        rows = self.take(n)
        index = rows["ticket"]["index"]
        tally = self.strategy.tally(Outcome(index, (index * 3) % 4 != 0, context=rows["ticket"]))
        if tally is not None:
            self.strategy.update(tally, steps=1.0)
        if self.strategy.refresh_every_n_steps is not None:
            self.strategy.refresh(EvenProbe())
        self.stream.note()
        return rows

    def steps(self, n_steps, n=4):
        return [self.step(n)["ticket"]["index"].tolist() for _ in range(n_steps)]


class TestTickets:
    def test_rows_are_what_the_ticket_says(self):
        rows = Run(lambda: MixCD(partition=ByLabel())).step(9)
        index = rows["ticket"]["index"]
        assert rows["batch"]["x"].tolist() == index.tolist()
        # The labels are the squares modulo 7.
        assert rows["ticket"]["bin"].tolist() == [[0, 1, 2, 4].index(i * i % 7) for i in index.tolist()]
        assert rows["ticket"]["base_correct"].tolist() == [True] * 9

    def test_base_correctness_is_looked_up(self):
        rows = Run(ClassBalanced).step(30)
        assert rows["ticket"]["base_correct"].tolist() == LEDGER.correct[rows["ticket"]["index"]].tolist()

    def test_without_a_ledger_nothing_is_known(self):
        run = Run()
        stream = PoolStream(Pool(Samples()), run.strategy, {})
        stream.begin(3)
        assert set(stream.take(3)["ticket"]) == {"index"}


class TestSameRows:
    @pytest.mark.parametrize("make", STRATEGIES)
    def test_whoever_fetches(self, make):
        rows = [Run(make, num_workers=num_workers, lag=4).steps(12) for num_workers in (0, 1, 2)]
        assert rows[0] == rows[1] == rows[2]

    @pytest.mark.parametrize("make", STRATEGIES)
    def test_however_they_are_taken(self, make):
        # Without learning in between, so that only the cutting differs.
        whole, run = Run(make, lag=3), Run(make, lag=3)
        expected = flat(whole.take(4)["ticket"]["index"].tolist() for _ in range(12))
        taken = [run.take(n) for n in (4, 1, 2, 9, 5, 3, 12, 8)]
        assert [len(rows["batch"]["x"]) for rows in taken] == [4, 1, 2, 9, 5, 3, 12, 8]
        assert flat(rows["batch"]["x"].tolist() for rows in taken) == expected[:44]
        assert flat(rows["ticket"]["index"].tolist() for rows in taken) == expected[:44]

    def test_seed_decides(self):
        assert Run().steps(3) == Run().steps(3) != Run(seed=1).steps(3)

    @pytest.mark.parametrize("make", STRATEGIES)
    @pytest.mark.parametrize("world_size", [2, 4])
    def test_ranks_divide_the_draws_of_one_process(self, make, world_size):
        whole = Run(make).steps(1, n=12)[0]
        ranks = [
            Run(make, rank=rank, world_size=world_size).steps(1, n=12 // world_size)[0]
            for rank in range(world_size)
        ]
        assert sorted(flat(ranks)) == sorted(whole)
        assert len({*whole}) == 12

    def test_ranks_that_learn_together_stay_together(self):
        def make():
            return MixCD(partition=ByLabel())

        whole = Run(make, lag=2)
        ranks = [Run(make, lag=2, rank=rank, world_size=2) for rank in range(2)]
        for _ in range(10):
            expected = whole.step(8)["ticket"]["index"].tolist()
            tickets = [run.take(4)["ticket"] for run in ranks]
            tallies = [
                run.strategy.tally(Outcome(t["index"], (t["index"] * 3) % 4 != 0, context=t))
                for run, t in zip(ranks, tickets, strict=True)
            ]
            for run in ranks:
                run.strategy.update(sum(tallies), steps=1.0)
                run.stream.note()
            assert sorted(torch.cat([t["index"] for t in tickets]).tolist()) == sorted(expected)


class Counter(Strategy):
    """Its signal counts updates, and it notes which count each draw was given."""

    def setup(self, n_pool, ledger, *, seed):
        self.n_available, self.updates, self.given = n_pool, torch.zeros(()), []

    def select(self, n, *, signal, generator):
        self.given.append(int(signal))
        return torch.randperm(self.n_available, generator=generator)[:n]

    def tally(self, outcome):
        return torch.ones(())

    def update(self, tally, *, steps):
        self.updates = self.updates + tally

    def signal(self):
        return self.updates


class TestLag:
    @pytest.mark.parametrize(("num_workers", "lag"), [(0, 0), (0, 1), (0, 5), (1, 2), (2, 4), (2, 5), (2, 8)])
    def test_a_round_goes_by_what_was_known_lag_draws_before_it(self, num_workers, lag):
        run = Run(Counter, num_workers=num_workers, lag=lag)
        run.steps(24)
        of_a_round = max(1, lag // 2)
        first = [draw - draw % of_a_round for draw in range(24)]
        assert run.strategy.given[:24] == [max(0, draw - lag) for draw in first]

    def test_it_counts_draws_and_not_steps(self):
        run = Run(Counter, lag=2)
        run.steps(1, n=4)
        run.steps(20, n=2)
        # Each later draw serves two steps, hence two updates.
        assert run.strategy.given == [0, 0, 0, *range(1, 17, 2)]

    def test_a_round_goes_by_what_was_known_when_the_fastest_rank_was_lag_draws_before_it(self):
        # The first rank takes two draws a step, so it needs each round at half the time.
        fast, slow = (Run(Counter, lag=4, rank=rank, world_size=2) for rank in range(2))
        for run in (fast, slow):
            run.stream.begin(8)
        for step in range(30):
            fast.stream.take(8)
            slow.stream.take(4)
            paces = torch.stack([torch.tensor([r.stream._opened, -r.stream._opened]) for r in (fast, slow)])
            for run in (fast, slow):
                run.strategy.update(torch.ones(()), steps=1.0)
                run.stream.note(lambda pace, paces=paces: paces.max(dim=0).values)
            assert fast.stream._opened == 2 * step + 1
        drawn = len(slow.strategy.given)
        assert drawn >= 30
        assert fast.strategy.given[:drawn] == slow.strategy.given
        # After step j draw 2j + 1 was open.
        first = [draw - draw % 2 for draw in range(drawn)]
        assert slow.strategy.given == [max(0, (draw - 4) // 2) for draw in first]

    def test_every_draw_and_seed_has_chances_of_its_own(self):
        drawn = [tuple(index) for seed in (0, 1) for index in Run(Counter, seed=seed).steps(5)]
        assert len({*drawn}) == 10

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_workers_never_run_ahead_of_the_lag(self, num_workers):
        run = Run(Counter, num_workers=num_workers, lag=5)
        for opened in range(8):
            run.step()
            # Two draws at most are fetched ahead, and the second may begin a round of two.
            assert len(run.strategy.given) <= opened + 1 + 2 + 1


class TestResume:
    @pytest.mark.parametrize("make", STRATEGIES)
    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("before", [[4, 4, 4], [4, 3], [4, 4, 1, 6], [4]])
    def test_a_fresh_stream_goes_on_where_the_saved_one_stood(self, make, num_workers, before):
        options = {"num_workers": num_workers, "lag": 4}
        run = Run(make, **options)
        for n in before:
            run.step(n)
        checkpoint = run.checkpoint()
        expected = [run.step(n)["ticket"] for n in (2, 4, 5, 4, 4, 4, 4, 4)]
        resumed = Run(make, **options).resume(checkpoint)
        found = [resumed.step(n)["ticket"] for n in (2, 4, 5, 4, 4, 4, 4, 4)]
        for a, b in zip(expected, found, strict=True):
            assert a.keys() == b.keys()
            assert all(torch.equal(a[key], b[key]) for key in a)

    def test_number_of_workers_may_change(self):
        run = Run(lambda: MixCD(partition=ByLabel()), num_workers=2, lag=4)
        run.steps(5)
        checkpoint = run.checkpoint()
        resumed = Run(lambda: MixCD(partition=ByLabel()), lag=4).resume(checkpoint)
        assert resumed.steps(8) == run.steps(8)

    def test_augmentation_goes_on_too(self):
        run = Run(dataset=Samples(noise=True))
        run.steps(3)
        run.step(2)
        resumed = Run(dataset=Samples(noise=True)).resume(run.checkpoint())
        for a, b in zip((run.step(), run.step()), (resumed.step(), resumed.step()), strict=True):
            assert torch.equal(a["batch"]["noise"], b["batch"]["noise"])

    def test_before_the_first_row_there_is_nothing_to_resume(self):
        checkpoint = Run().checkpoint()
        assert Run().resume(checkpoint).steps(3) == Run().steps(3)

    def test_a_resumed_stream_can_be_saved_at_once(self):
        run = Run(Counter, lag=3)
        run.steps(6)
        first = run.checkpoint()
        second = Run(Counter, lag=3).resume(first).checkpoint()
        assert second[2].tolist() == first[2].tolist()
        assert first[2][:3].tolist() == [5, 4, 5]
        assert second[1]["signals"] == first[1]["signals"]


class TestOtherNumberOfProcesses:
    def uneven(self):
        """Two ranks, of which the second needs fewer rows now and then."""
        ranks = [Run(UniformCorrect, lag=4, rank=rank, world_size=2) for rank in range(2)]
        for run in ranks:
            run.stream.begin(8)
        for n in (4, 4, 1, 4, 4):
            ranks[0].stream.take(4)
            ranks[1].stream.take(n)
        return ranks

    def test_ranks_go_on_each_from_its_own_place(self):
        ranks = self.uneven()
        saved = [run.checkpoint() for run in ranks]
        expected = [run.steps(6) for run in ranks]
        resumed = [Run(UniformCorrect, lag=4, rank=rank, world_size=2).resume(*saved) for rank in range(2)]
        assert [run.steps(6) for run in resumed] == expected

    @pytest.mark.parametrize("world_size", [1, 4, 3])
    def test_the_global_draws_stay_and_are_shared_out_anew(self, world_size):
        whole = Run(UniformCorrect, lag=4)
        draws = whole.steps(12, n=8)
        saved = [run.checkpoint() for run in self.uneven()]
        resumed = [
            Run(UniformCorrect, lag=4, rank=rank, world_size=world_size).resume(*saved)
            for rank in range(world_size)
        ]
        # Five draws were begun by the rank that was ahead.
        for draw in draws[5:]:
            parts = [run.stream.take(run.stream._own_rows)["ticket"]["index"].tolist() for run in resumed]
            assert parts == [draw[rank::world_size] for rank in range(world_size)]

    def test_more_processes_than_rows_are_refused(self):
        saved = [run.checkpoint() for run in self.uneven()]
        message = "A draw must have at least one row per process, got 8 rows for 9 processes"
        with pytest.raises(ValueError, match=message):
            Run(UniformCorrect, lag=4, rank=8, world_size=9).resume(*saved)


class TestChance:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_augmentation_depends_on_the_draw_alone(self, num_workers):
        plain = Run(dataset=Samples(noise=True), lag=4)
        other = Run(dataset=Samples(noise=True), lag=4, num_workers=num_workers)
        for step in range(6):
            for _ in range(step):
                chances()  # must not matter
            a, b = plain.step()["batch"], other.step()["batch"]
            assert torch.equal(a["noise"], b["noise"])
        assert len(a["noise"].unique()) == a["noise"].numel()

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_so_does_chance_in_the_collate_function(self, num_workers):
        plain = Run(collate_fn=masking_collate, lag=4)
        other = Run(collate_fn=masking_collate, lag=4, num_workers=num_workers)
        torch.rand(3)
        masks = [(plain.step()["batch"]["mask"], other.step()["batch"]["mask"]) for _ in range(3)]
        assert all(torch.equal(a, b) for a, b in masks)
        assert not torch.equal(masks[0][0], masks[1][0])

    def test_ranks_augment_differently(self):
        a, b = (
            Run(dataset=Samples(noise=True), rank=rank, world_size=2).step()["batch"]["noise"]
            for rank in (0, 1)
        )
        assert not (a == b).any()

    @pytest.mark.parametrize("num_workers", [0, 2])
    @pytest.mark.parametrize("pool", [{"dataset": Samples(noise=True)}, {"collate_fn": masking_collate}])
    def test_global_random_state_stays_as_it_is(self, num_workers, pool):
        before = global_states()
        run = Run(lambda: MixCD(partition=ByLabel()), num_workers=num_workers, lag=4, **pool)
        run.steps(5)
        Run(lambda: MixCD(partition=ByLabel()), num_workers=num_workers, lag=4, **pool).resume(
            run.checkpoint()
        )
        assert global_states() == before


class Opening(Samples):
    """Opens itself at the first read, as data sets on files do."""

    opened = False

    def __getitem__(self, i):
        self.opened = True
        return super().__getitem__(i)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_only_workers_open_what_workers_read(num_workers):
    dataset = Opening()
    Run(dataset=dataset, num_workers=num_workers).steps(3)
    assert dataset.opened == (num_workers == 0)


def test_collate_function_that_drops_samples_is_refused():
    message = r"`collate_fn` of the pool must keep every sample, got 3 rows for 4 samples\. Filter the pool"
    with pytest.raises(ValueError, match=message):
        Run(collate_fn=dropping_collate).step()


def test_draw_larger_than_the_pool_is_refused():
    with pytest.raises(ValueError, match=r"UniformCorrect may draw \(48\), got 49\. Lower `mix_ratio`"):
        Run().step(49)


@pytest.mark.parametrize("stop", [PoolStream.close, lambda stream: None])
def test_closing_or_dropping_a_stream_stops_its_workers(stop):
    gc.disable()  # so that a stream in a reference cycle would stay
    try:
        run = Run(num_workers=2)
        before = {*multiprocessing.active_children()}
        run.step()
        workers = {*multiprocessing.active_children()} - before
        assert len(workers) == 2
        stop(run.stream)
        alone = weakref.ref(run.stream)
        del run
        assert alone() is None
        assert not workers & {*multiprocessing.active_children()}
    finally:
        gc.enable()


def test_what_a_stream_keeps_does_not_grow():
    run = Run(Counter, num_workers=2, lag=5)
    for _ in range(3):
        run.steps(10)
        assert len(run.stream._notes) <= 2 * (5 + 2)
        assert len(run.stream._positions) <= 3
        assert len(run.stream._tickets) <= 4


def test_nor_while_nothing_is_drawn():
    run = Run(Counter, lag=4)
    run.steps(10)
    for _ in range(50):
        run.strategy.update(torch.ones(()), steps=1.0)
        run.stream.note()
    assert len(run.stream._notes) <= 12
    run.steps(30)
    # Draw 9 was open in the pause; the first round more than a lag behind it goes by what was learnt there.
    assert run.strategy.given[13] == 13 - 1 - 4
    assert run.strategy.given[14] == 10 + 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_rows_are_pinned_where_they_will_move():
    run = Run(num_workers=2)
    stream = PoolStream(
        Pool(Samples(), num_workers=2), run.strategy, {"base_correct": LEDGER.correct}, pin_memory=True
    )
    stream.begin(4)
    assert stream.take(4)["batch"]["x"].is_pinned()
