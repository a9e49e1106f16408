"""Pools of streams: rows against lists of all that a stream holds, whoever reads and wherever it resumes."""

import random
import threading

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import IterableDataset, get_worker_info

from lightning_mixcd import Oracle, Streams
from lightning_mixcd.data import cursor
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.stream import PoolStream
from lightning_mixcd.errors import PoolError
from lightning_mixcd.estimators import RunningMean
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.strategies import ClassBalanced, MixCD, NoRehearsal, Uniform, UniformCorrect
from lightning_mixcd.types import Outcome
from tests.data.resuming import Resumable

# Streams of three lengths: a run of some 100 rows reads the first many times over, and not all of the last.
LENGTHS = {"small": 7, "middle": 30, "large": 400}
SIZES = {"small": 10, "middle": 20, "large": 20}


def samples(name):
    """What a stream holds, in order; the base model had every third sample wrong."""
    first = 1000 * [*LENGTHS].index(name)
    return [{"x": first + i, "right": i % 3 != 0} for i in range(LENGTHS[name])]


class Plain:
    """Nothing but an iterable; any loader worker would be given its share."""

    def __init__(self, name):
        self.name = name

    def __iter__(self):
        info = get_worker_info()
        yield from samples(self.name)[slice(None) if info is None else slice(info.id, None, info.num_workers)]


class Torch(Plain, IterableDataset):
    """The same as torch knows it, in another order in every pass."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        order = [*Plain.__iter__(self)]
        random.Random(self.epoch).shuffle(order)
        yield from order


class Stateful(IterableDataset):
    """Goes on where its state says, once."""

    def __init__(self, name):
        self.name, self.start, self.state = name, 0, {}

    def __iter__(self):
        self.state["at"], self.start = self.start, 0
        for sample in samples(self.name)[self.state["at"] :]:
            self.state["at"] += 1
            yield sample

    def state_dict(self):
        return self.state  # which goes on changing

    def load_state_dict(self, state):
        self.state, self.start = state, state["at"]


class Unsaveable(Stateful):
    """Whose state no checkpoint may hold."""

    def state_dict(self):
        return {"at": np.int64(self.state["at"])}


class Told(Stateful):
    """Which must be told how far it was read, so that its state is of no use."""

    def state_dict(self, n_read):
        raise AssertionError


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    """Streams of Hugging Face over three local shards each."""
    folder = tmp_path_factory.mktemp("parquet")
    datasets.disable_progress_bars()
    for name in LENGTHS:
        whole = datasets.Dataset.from_list(samples(name))
        for i in range(3):
            whole.shard(3, i, contiguous=True).to_parquet(folder / f"{name}-{i}.parquet")

    def stream(name):
        return datasets.IterableDataset.from_parquet(sorted(map(str, folder.glob(f"{name}-*.parquet"))))

    return stream


@pytest.fixture
def make(request, parquet):
    """Makes a stream of the kind asked for, by its name."""
    kinds = {
        "hf": parquet,
        # From one shard at a time: where it mixes several, every pass ends with a sleep of five seconds.
        "hf shuffled": lambda name: parquet(name).shuffle(seed=3, buffer_size=20, max_buffer_input_shards=1),
        "hf mapped": lambda name: parquet(name).map(lambda row: {"x": row["x"] + 0}).filter(lambda row: True),
    }
    return kinds.get(request.param, request.param)


KINDS = [Plain, Torch, Stateful, Unsaveable, Told, "hf", "hf shuffled", "hf mapped"]
WITH_STATE = [Stateful, "hf", "hf mapped"]
every_kind = pytest.mark.parametrize("make", KINDS, indirect=True)


def passes(stream, n):
    """Numbers of the base-correct samples of the first `n` passes, each a list."""
    found = []
    for number in range(n):
        if hasattr(stream, "set_epoch"):
            stream.set_epoch(number)
        found.append([int(sample["x"]) for sample in stream if sample["right"]])
    return found


class Run(Resumable):
    """A stream of rows and its strategy, which learns and whose signal is noted after every step."""

    def __init__(self, make=Plain, strategy=MixCD, *, rank=0, world_size=1, base_correct="right", **pool):
        self.strategy = strategy()
        streams = Streams({name: make(name) for name in LENGTHS}, sizes=SIZES, base_correct=base_correct)
        self.strategy.setup_streams(streams.sizes, seed=5)
        pool = Pool(streams, **{"lag": 4, **pool})
        self.stream = PoolStream(pool, self.strategy, {}, seed=5, rank=rank, world_size=world_size)
        self.wrong, self.seen = np.zeros(len(LENGTHS)), np.zeros(len(LENGTHS))

    def step(self, n=6):
        if not self.stream.rows_per_draw:
            self.stream.begin(n * self.stream.world_size)
        rows = self.stream.take(n)
        index, x = rows["ticket"]["index"], rows["batch"]["x"]
        correct = x % 4 != 0
        for stream, right in zip((x // 1000).tolist(), correct.tolist(), strict=True):
            self.seen[stream] += 1
            self.wrong[stream] += not right
        tally = self.strategy.tally(Outcome(index, correct, context=rows["ticket"]))
        if tally is not None:
            self.strategy.update(tally, steps=1.0)
        self.stream.note()
        return rows

    def steps(self, n_steps, n=6):
        """Numbers of the samples of each step."""
        return [self.step(n)["batch"]["x"].tolist() for _ in range(n_steps)]


def flat(lists):
    return [item for items in lists for item in items]


@every_kind
@pytest.mark.parametrize("strategy", [MixCD, Uniform, UniformCorrect, ClassBalanced])
def test_rows_of_a_stream_come_in_its_order_and_once_a_pass(make, strategy):
    rows = flat(Run(make, strategy).steps(25))
    for number, name in enumerate(LENGTHS):
        got = [x for x in rows if x // 1000 == number]
        once = passes(make(name), len(got) // 4 + 1)
        assert got == flat(once)[: len(got)]
        assert all(sorted(one) == sorted(once[0]) for one in once)


def test_tickets_say_what_the_rows_are():
    rows = Run().step(40)
    assert rows["batch"].keys() == {"x"}
    assert (rows["ticket"]["bin"] == rows["batch"]["x"] // 1000).all()
    assert len(rows["ticket"]["index"].unique()) == 40
    assert rows["ticket"]["base_correct"].tolist() == [True] * 40


def test_base_correctness_may_be_a_function_or_unknown():
    expected = Run().steps(8)
    function = Run(base_correct=lambda sample: sample["right"]).step()["batch"]
    assert function["x"].tolist() == expected[0]
    assert function["right"].all()
    assert not Run(base_correct=None).step(20)["batch"]["right"].all()


@pytest.mark.parametrize("given", ["False", "yes", "", 2, None, float("nan"), torch.ones(2)])
@pytest.mark.parametrize("as_field", [True, False])
def test_base_correctness_that_is_neither_true_nor_false_is_refused(given, as_field):
    how = "right" if as_field else (lambda sample: sample["right"])
    streams = Streams({"news": [{}]}, base_correct=how)
    with pytest.raises(ValueError, match=r"`base_correct` must say True or False.*in stream 'news'\. Pass"):
        streams.judge("news", {"right": given})


@pytest.mark.parametrize("kind", [bool, int, float, np.bool_, np.int64, torch.tensor])
def test_base_correctness_may_be_a_number_or_a_tensor(kind):
    streams = Streams({"news": [{}]}, base_correct="right")
    for right in (True, False):
        assert streams.judge("news", {"right": kind(right), "x": 3}) == (right, {"x": 3})


@pytest.mark.parametrize("make", [Plain, Torch, "hf", "hf shuffled"], indirect=True)
def test_rows_do_not_depend_on_who_fetches(make):
    alone = Run(make).steps(20)
    assert Run(make, num_workers=1).steps(20) == alone
    assert Run(make, num_workers=2).steps(20) == alone


@every_kind
def test_ranks_share_the_draws_of_one(make):
    whole = Run(make, Uniform).steps(12, n=6)
    parts = [Run(make, Uniform, rank=rank, world_size=2).steps(12, n=3) for rank in range(2)]
    assert [[*a, *b] for a, b in zip(*parts, strict=True)] == [[*d[::2], *d[1::2]] for d in whole]


def test_rates_are_those_of_the_rows():
    run = Run(strategy=lambda: MixCD(estimator=RunningMean()))
    run.steps(40)
    assert run.strategy.signal().tolist() == pytest.approx((run.wrong / run.seen).tolist())


@pytest.mark.parametrize(
    ("strategy", "shares"), [(Uniform, [0.2, 0.4, 0.4]), (ClassBalanced, [1 / 3, 1 / 3, 1 / 3])]
)
def test_shares_of_the_streams(strategy, shares):
    run = Run(strategy=strategy)
    run.steps(300)
    deviation = np.sqrt(np.multiply(shares, np.subtract(1, shares)) / 1800)
    assert (np.abs(run.seen / 1800 - shares) < 4 * deviation).all()


class TestResume:
    @every_kind
    @pytest.mark.parametrize("stop", [0, 1, 4, 7, 17])
    @pytest.mark.filterwarnings("ignore:Stream .* does not go on where its state was saved")
    def test_rows_are_those_of_the_uninterrupted_run(self, make, stop):
        run = Run(make)
        run.steps(stop)
        if stop == 7:
            run.stream.take(2)  # a draw is left half used
        saved = run.checkpoint()
        expected = run.steps(12)
        resumed = Run(make).resume(saved)
        assert resumed.steps(5) == expected[:5]
        assert Run(make).resume(resumed.checkpoint()).steps(7) == expected[5:]

    @pytest.mark.parametrize("make", [Plain, "hf", "hf shuffled"], indirect=True)
    @pytest.mark.parametrize("workers", [(2, 2), (0, 2), (2, 0)])
    @pytest.mark.filterwarnings("ignore:Stream .* does not go on where its state was saved")
    def test_with_workers(self, make, workers):
        run = Run(make, num_workers=workers[0])
        run.steps(9)
        saved = run.checkpoint()
        expected = run.steps(12)
        assert Run(make, num_workers=workers[1]).resume(saved).steps(12) == expected

    @pytest.mark.parametrize("make", WITH_STATE, indirect=True)
    def test_state_of_a_stream_saves_reading_it_again(self, make):
        read = []

        def right(sample):
            read.append(sample["x"])
            return sample["right"]

        run = Run(make, base_correct=right)
        run.steps(36)
        saved = run.checkpoint()
        before = len(read)
        run.step()
        more = len(read) - before
        for _ in range(2):  # also a run that is saved as soon as it was resumed
            saved = Run(make, base_correct=right).resume(saved).checkpoint()
        read.clear()
        Run(make, base_correct=right).resume(saved).step()
        # Besides the rows of the next step: those since the beginning of the round, of 2 draws of 6 rows.
        assert len(read) <= more + 2 * 6 * 3 / 2 + 3
        assert before > 3 * len(read)

    def test_without_a_state_only_the_last_pass_is_read_again(self):
        read = []

        def right(sample):
            read.append(sample["x"])
            return sample["right"]

        run = Run(Plain, base_correct=right)
        run.steps(60)
        saved = run.checkpoint()
        assert read.count(1) > 10  # passes over the small stream
        read.clear()
        Run(Plain, base_correct=right).resume(saved).step()
        assert read.count(1) <= 3

    @pytest.mark.parametrize("make", ["hf shuffled"], indirect=True)
    def test_a_state_that_leads_elsewhere_is_found_out(self, make):
        run = Run(make)
        run.steps(20)
        saved = run.checkpoint()
        with pytest.warns(UserWarning, match="Stream 'large' does not go on where its state was saved"):
            Run(make).resume(saved).steps(3)

    @pytest.mark.parametrize("make", [Plain, "hf"], indirect=True)
    def test_ranks_of_which_one_was_behind(self, make):
        ahead, behind = (Run(make, Uniform, rank=rank, world_size=2) for rank in range(2))
        ahead.steps(14, n=3)
        behind.steps(3, n=3)
        saved = [ahead.checkpoint(), behind.checkpoint()]
        expected = [run.steps(6, n=3) for run in (ahead, behind)]
        resumed = [Run(make, Uniform, rank=rank, world_size=2).resume(*saved) for rank in range(2)]
        assert [run.steps(6, n=3) for run in resumed] == expected

    def test_with_more_processes_the_draws_go_on(self):
        run = Run(strategy=Uniform)
        run.steps(5)
        saved = run.checkpoint()
        expected = run.steps(4)
        resumed = [Run(strategy=Uniform, rank=rank, world_size=2).resume(saved) for rank in range(2)]
        parts = [part.steps(4, n=3) for part in resumed]
        assert [[*a, *b] for a, b in zip(*parts, strict=True)] == [[*d[::2], *d[1::2]] for d in expected]

    def test_other_streams_are_refused(self):
        run = Run()
        run.steps(2)
        reader = Run().stream._reader
        state = {"wiki": {}, "news": {}}
        with pytest.raises(ValueError, match=r"resumed with the streams .*\['wiki', 'news'\] in this order"):
            reader.load_state_dict(state, [0, 0])

    def test_long_way_is_announced(self, monkeypatch):
        run = Run()
        run.steps(40)
        saved = run.checkpoint()
        monkeypatch.setattr(cursor, "MANY", 20)
        with pytest.warns(UserWarning, match=r"Stream '(middle|large)' is read up to sample"):
            Run().resume(saved).step()


@pytest.mark.parametrize("make", ["hf", Torch, Stateful], indirect=True)
def test_streams_of_the_user_stay_as_they_are(make):
    stream = make("small")
    streams = Streams({"only": stream}, base_correct="right")
    for _ in range(2):
        strategy = Uniform()
        strategy.setup_streams(streams.sizes, seed=0)
        rows = PoolStream(Pool(streams), strategy, {})
        rows.begin(6)
        assert flat(rows.take(6)["batch"]["x"].tolist() for _ in range(2)) == flat(passes(make("small"), 3))
        assert getattr(stream, "epoch", 0) == 0


def test_global_random_state_stays_as_it_is():
    def masked(rows):
        return {"x": torch.tensor([row["x"] for row in rows]), "mask": torch.rand(len(rows))}

    before = torch.get_rng_state()
    masks = [Run(collate_fn=masked).step()["batch"]["mask"] for _ in range(2)]
    assert torch.equal(*masks)
    assert torch.equal(before, torch.get_rng_state())


class TestRefused:
    def test_streams_that_cannot_begin_anew(self):
        for stream in (iter("abc"), (x for x in "abc"), 5):
            with pytest.raises(TypeError, match=r"iterables that can begin anew, got \w+ for 'news'"):
                Streams({"news": stream})

    def test_no_stream(self):
        with pytest.raises(ValueError, match="`streams` must hold at least one stream"):
            Streams({})

    @pytest.mark.parametrize(
        "sizes", [{"a": 1}, {"a": 1, "b": 0}, {"a": 1, "b": float("nan")}, {"a": 1, "c": 1}]
    )
    def test_sizes(self, sizes):
        with pytest.raises(ValueError, match=r"`sizes` must have a number above 0 for each of \['a', 'b'\]"):
            Streams({"a": [1], "b": [2]}, sizes=sizes)

    def test_field_that_is_not_there(self):
        with pytest.raises(ValueError, match="`base_correct` must be a field of every sample, got 'correct'"):
            Run(base_correct="correct").step()

    @pytest.mark.parametrize("stream", [[], [{"x": 1, "right": False}]])
    def test_stream_without_a_base_correct_sample(self, stream):
        with pytest.raises(PoolError, match=r"stream '\w+' gave none in pass 0"):
            Run(lambda name: stream).step(40)

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_stream_that_fails(self, num_workers):
        def failing(name):
            class Failing(Plain):
                def __iter__(self):
                    yield from samples(name)[:4]
                    raise OSError("no route to host")

            return Failing(name)

        run = Run(failing, num_workers=num_workers)
        with pytest.raises(
            PoolError, match=r"raised OSError\('no route to host'\) in pass 0, after 2 base-cor"
        ):
            run.steps(30)
        run.stream.close()

    @pytest.mark.parametrize("make", [Torch, Stateful])
    def test_stream_that_cannot_be_copied(self, make):
        class Connected(make):
            def __init__(self, name):
                super().__init__(name)
                self.client = threading.Lock()

        with pytest.raises(TypeError, match=r"be what can be copied.*copying stream '\w+' raised Ty"):
            Run(Connected).step()

    @pytest.mark.parametrize(
        "strategy",
        [
            lambda: MixCD(partition=ByLabel()),
            lambda: MixCD(wrong_share=0.1),
            lambda: ClassBalanced(ByLabel()),
        ],
    )
    def test_bins_that_are_not_the_streams(self, strategy):
        with pytest.raises(ValueError, match="must be left out for `Streams`"):
            Run(strategy=strategy)

    def test_strategies_that_pick_single_samples(self):
        with pytest.raises(ValueError, match="`pool` must be map-style for Oracle, got `Streams`"):
            Run(strategy=Oracle)

    def test_skipping(self):
        with pytest.raises(ValueError, match='`unreadable` must be "raise" for `Streams`'):
            Pool(Streams({"a": [1]}), unreadable="skip")

    def test_random_access(self):
        with pytest.raises(TypeError, match="`Streams` have no random access"):
            Streams({"a": [1]})[0]


def test_no_rehearsal_needs_nothing():
    NoRehearsal().setup_streams(torch.ones(2), seed=0)


def test_a_strategy_that_is_set_up_again_knows_nothing():
    run = Run()
    before = run.strategy.signal()
    run.steps(5)
    assert not torch.equal(run.strategy.signal(), before)
    run.strategy.setup_streams(torch.ones(3), seed=0)
    assert torch.equal(run.strategy.signal(), before)
    assert run.strategy.draw_state().tolist() == [0, 0, 0]
