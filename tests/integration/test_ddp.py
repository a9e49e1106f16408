"""Processes on the CPU: one global draw shared out, one set of rates, one ledger, exact resume."""

import math

import numpy as np
import pytest
from torch.utils.data import DataLoader

from lightning_mixcd import Ledger, MixCD, Pool, RehearsalCallback, record_ledger
from lightning_mixcd.partitions import ByLossQuantile
from tests.integration.ddp_process import CASES, N_BATCHES
from tests.integration.launching import together
from tests.integration.one_process import (
    LAG,
    OF_A_ROUND,
    OneProcess,
    assert_shared_out,
    drawn,
    in_order,
    n_opened,
    ours,
    share_of,
)
from tests.toys import N_POOL, POOL_IDS, Toy, finetune, flat, ledger, pool, rehearsed, trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    return together(tmp_path_factory, "ddp_process", 4)


@pytest.fixture(scope="module")
def folder(launched):
    return launched[0]


@pytest.fixture(scope="module")
def four(launched):
    return launched[1]


@pytest.fixture(scope="module")
def ranks(four):
    return four[:2]


RUNS = ["recording", "again", "workers", "oracle", "mixcd whole", "oracle whole"]


@pytest.mark.parametrize("name", RUNS)
def test_ranks_rehearse_different_samples_in_each_step(ranks, name):
    one, two = (drawn(rank[name]) for rank in ranks)
    assert len(one) == len(two) == 6
    assert [len(step) for step in one] == [len(step) for step in two] == [4, 4, 2] * 2
    assert not any(set(a) & set(b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", RUNS)
def test_ranks_agree_on_rates_weights_and_logged_values(ranks, name):
    one, two = (rank[name] for rank in ranks)
    assert one["rates"] == two["rates"]
    assert one["weights"] == two["weights"]
    assert one["units"] == two["units"]
    assert ours(one) == ours(two)


def test_ranks_together_draw_what_one_process_draws_of_twice_the_rows(ranks):
    module = Toy()
    callback = RehearsalCallback(MixCD(), pool=Pool(pool(), lag=2), ledger=ledger(), mix_ratio=1)
    trainer(callback, limit_train_batches=3, max_epochs=2).fit(module, DataLoader(finetune(), 8))
    alone = [i for step in rehearsed(module) for i in step]
    one, two = ([i for step in drawn(rank["again"]) for i in step] for rank in ranks)
    # Eight to a draw; the first three, within the lag, know nothing of the training, which differs.
    n = 12
    assert alone[: 2 * n : 2] == one[:n]
    assert alone[1 : 2 * n : 2] == two[:n]


def test_finetune_samples_are_shared_out_by_lightning(ranks):
    assert all(rank["again"]["split"] for rank in ranks)
    for epoch in range(2):
        steps = [
            i
            for rank in ranks
            for step in rank["again"]["seen"][3 * epoch : 3 * epoch + 3]
            for i in step
            if i < POOL_IDS
        ]
        assert sorted(steps) == [*range(40)]


def test_ledger_is_recorded_once(ranks, folder):
    assert Ledger.open(folder / "base.ledger").correct.tolist() == ledger().correct.tolist()
    assert ranks[0]["recording"]["seen"] == ranks[0]["again"]["seen"]


# The first batch of 8 tells which columns there are; of the other 7 there are 3 for each, and one more.
def test_ranks_share_the_recording_of_what_one_process_records(ranks, folder):
    rows = [rank["shared recording"]["rows_forwarded"] - rank["again"]["rows_forwarded"] for rank in ranks]
    assert rows == [8 + 3 * 8 + 4] * 2
    found = Ledger.open(folder / "logits.ledger")
    alone = record_ledger(Toy(), Pool(pool(), batch_size=8), folder / "alone.ledger", keep=["logits"])
    assert found.columns == alone.columns
    assert all(np.array_equal(found.column(name), alone.column(name)) for name in alone.columns)
    assert found.forwards == N_POOL


def test_ranks_share_the_looks_of_an_oracle(ranks):
    assert ranks[0]["shared looks"]["rates"] == ranks[1]["shared looks"]["rates"]
    assert ranks[0]["shared looks"]["seen"] == ranks[0]["oracle"]["seen"]
    n_correct = int(ledger().correct.sum())
    batches = [min(8, n_correct - start) for start in range(0, n_correct, 8)]
    batches += batches[-1:] * (len(batches) % 2)
    looks = 3 * sum(batches)  # after steps 2, 4 and 6
    assert ranks[0]["shared looks"]["units"] == N_POOL + looks + 2 * 3 * 2 * (20 + 10)


def test_workers_do_not_change_the_run(ranks):
    for rank in ranks:
        assert rank["workers"]["seen"] == rank["again"]["seen"]
        assert rank["workers"]["weights"] == rank["again"]["weights"]


def test_compute_units_are_those_of_both(ranks):
    assert ranks[0]["again"]["units"] == N_POOL + 2 * 3 * 2 * (20 + 10)
    looks = 3 * int(ledger().correct.sum())  # after steps 2, 4 and 6, by each process
    assert ranks[0]["oracle"]["units"] == N_POOL + 2 * looks + 2 * 3 * 2 * (20 + 10)


def test_share_of_damaged_rows_is_that_of_both(ranks):
    one, two = (rank["again"]["damaged"] for rank in ranks)
    shares = [row["rehearsal/damaged_share"] for _, row in ranks[0]["again"]["logged"] if "train_loss" in row]
    rows = [4, 4, 2] * 2
    expected = [(sum(one[s : s + 2]) + sum(two[s : s + 2])) / (2 * sum(rows[s : s + 2])) for s in (0, 2, 4)]
    assert shares == pytest.approx(expected)
    assert sum(expected) > 0
    assert one != two


def test_rows_of_each_bin_are_those_of_both(ranks, folder):
    one, two = (drawn(rank["again"]) for rank in ranks)
    bins = ByLossQuantile(10).bins(Ledger.open(folder / "base.ledger"))
    logged = [row for _, row in ranks[0]["again"]["logged"] if "train_loss" in row]
    for n, row in zip((2, 4, 6), logged, strict=True):
        expected = np.bincount(bins[flat(one[:n] + two[:n])], minlength=10)
        assert [row[f"rehearsal/rows/{k:02d}"] for k in range(10)] == expected.tolist()


@pytest.mark.parametrize("step", [3, 5])
@pytest.mark.parametrize("name", ["mixcd", "oracle"])
def test_resumed_run_is_the_uninterrupted_one(ranks, name, step):
    for rank in ranks:
        whole, resumed = rank[f"{name} whole"], rank[f"{name} resumed {step}"]
        assert resumed["seen"] == whole["seen"][step:]
        assert resumed["rates"] == whole["rates"][step:]
        assert resumed["weights"] == whole["weights"]
        assert resumed["units"] == whole["units"]
        assert resumed["logged"] == [row for row in whole["logged"] if row[0] >= step]


def test_what_was_counted_before_the_checkpoint_is_not_the_first_process_alone(ranks):
    # The cases above would not notice if the second process had nothing to add.
    assert all(rank["mixcd whole"]["damaged"][4] for rank in ranks)


def on_all(four, name):
    return [rank[name] for rank in four if name in rank]


def step_share(name):
    """What a batch is of an optimizer step; the last of an epoch ends one that may have fewer."""
    n = CASES[name].get("accumulate", 1)
    rest = N_BATCHES % n
    return lambda batch: 1 / (rest if batch % N_BATCHES >= N_BATCHES - rest else n)


def rows_per_draw(name, n):
    """What the ranks' first batches may need, rounded up on each."""
    return sum(math.ceil(CASES[name]["mix_ratio"] * CASES[name]["rows"](rank, 0)) for rank in range(n))


def one_process(name, n, runs, **given):
    """One process that has seen what all ranks have, and the last draw that any of them has opened."""
    one = OneProcess(rows_per_draw(name, n))
    return one, one.follow(runs, steps=step_share(name), **given)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
class TestAnyBatches:
    def test_all_steps_are_made(self, four, name, n):
        runs = on_all(four, f"{n}: {name}")
        assert len(runs) == n
        for rank, run in enumerate(runs):
            sizes = [CASES[name]["rows"](rank, b) for b in range(N_BATCHES)] * 2
            assert [sum(i < POOL_IDS for i in step) for step in run["seen"]] == sizes

    def test_ranks_together_make_the_draws_of_one_process(self, four, name, n):
        runs = on_all(four, f"{n}: {name}")
        one, _ = one_process(name, n, runs)
        assert_shared_out(runs, one)

    def test_no_sample_comes_twice_in_a_draw(self, four, name, n):
        runs, size = on_all(four, f"{n}: {name}"), rows_per_draw(name, n)
        parts = [
            [in_order(run)[c : c + own] for c in range(0, len(in_order(run)), own)]
            for run, own in ((run, share_of(rank, n, size)) for rank, run in enumerate(runs))
        ]
        for draw in zip(*parts, strict=False):
            rows = [i for part in draw for i in part]
            assert len(rows) == len({*rows})

    def test_ranks_learn_what_one_process_learns(self, four, name, n):
        runs = on_all(four, f"{n}: {name}")
        one, _ = one_process(name, n, runs)
        assert one.rates[-1] != one.rates[0]
        for run in runs:
            assert run["rates"] == one.rates

    def test_ranks_log_the_same(self, four, name, n):
        runs = on_all(four, f"{n}: {name}")
        assert ours(runs[0])
        for run in runs[1:]:
            assert ours(run) == ours(runs[0])
            assert run["weights"] == runs[0]["weights"]

    def test_compute_units_are_those_of_all(self, four, name, n):
        runs = on_all(four, f"{n}: {name}")
        units = [3 * sum(len(run["seen"][b]) for run in runs) for b in range(2 * N_BATCHES)]
        assert [run["units"] for run in runs] == [sum(units)] * n
        if "accumulate" not in CASES[name]:
            logged = [(step, row["rehearsal/compute_units"]) for step, row in ours(runs[0]) if row]
            assert logged == [(step, sum(units[: step + 1])) for step in range(1, 2 * N_BATCHES, 2)]


@pytest.mark.parametrize("n", [2, 4])
def test_some_rank_rehearses_nothing_in_some_steps(four, n):
    # "few rows" is about that.
    runs = on_all(four, f"{n}: few rows")
    n_rows = [[len(run["rows"][b]) for run in runs] for b in range(2 * N_BATCHES)]
    assert any(min(step) == 0 < max(step) for step in n_rows)


@pytest.mark.parametrize("n", [2, 4])
def test_ranks_with_longer_batches_run_ahead(four, n):
    # "uneven" is about that.
    opened = n_opened(on_all(four, f"{n}: uneven"), rows_per_draw("uneven", n))
    assert max(opened) > min(opened) + LAG


def test_a_budget_ends_ranks_with_the_same_step_and_an_oracle_with_that_of_others(ranks):
    steps = [len(rank[f"{name} spent"]["rows"]) for name in ("mixcd", "oracle") for rank in ranks]
    of_a_step = 3 * (6 + 12)  # two thirds of them made by the second rank
    lessons = range(OF_A_ROUND, N_BATCHES, OF_A_ROUND)
    assert steps == [next(step for step in lessons if step * of_a_step >= 250)] * 4
    mixcd, oracle = (ranks[0][f"{name} spent"]["units"] for name in ("mixcd", "oracle"))
    assert mixcd == steps[0] * of_a_step < oracle


def test_a_run_that_its_budget_has_ended_makes_no_step_when_it_goes_on(ranks):
    for rank in ranks:
        assert rank["spent resumed"]["rows"] == []
        assert rank["spent resumed"]["units"] == rank["mixcd spent"]["units"]


class Resumed:
    """An epoch with some number of processes, and the next with another."""

    def __init__(self, four, before, after):
        self.old, self.new = on_all(four, f"{before}: uneven"), on_all(four, f"{before} to {after}")
        self.one, self.last = one_process("uneven", before, self.old, n_batches=N_BATCHES)
        self.one.follow(self.new, first=self.last + 1)


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 2), (2, 1)])
class TestOtherNumberOfProcesses:
    def test_the_global_draws_go_on(self, four, before, after):
        run = Resumed(four, before, after)
        assert len(run.new) == after
        assert_shared_out(run.new, run.one, first=run.last + 1)

    def test_nothing_learnt_is_lost(self, four, before, after):
        run = Resumed(four, before, after)
        for resumed in run.new:
            assert resumed["rates"] == run.one.rates[N_BATCHES:]

    def test_compute_units_go_on(self, four, before, after):
        run = Resumed(four, before, after)
        rows = [len(step) for old in run.old for step in old["seen"][:N_BATCHES]]
        rows += [len(step) for new in run.new for step in new["seen"]]
        assert [new["units"] for new in run.new] == [3 * sum(rows)] * after


def test_ranks_with_uneven_batches_resume_exactly(four):
    run = Resumed(four, 2, 2)
    for whole, resumed in zip(run.old, run.new, strict=True):
        assert resumed["seen"] == whole["seen"][N_BATCHES:]
        assert resumed["rates"] == whole["rates"][N_BATCHES:]
        assert resumed["weights"] == whole["weights"]
        assert resumed["units"] == whole["units"]
        assert ours(resumed) == [row for row in ours(whole) if row[0] >= N_BATCHES]
