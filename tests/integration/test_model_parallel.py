"""FSDP2 and tensor parallelism on the CPU: the same draws and rates, sharded checkpoints, what is refused."""

import pytest

from tests.integration.launching import together
from tests.integration.model_parallel_process import EPOCHS, STEP
from tests.integration.one_process import OneProcess, assert_shared_out, ours
from tests.toys import N_POOL, POOL_IDS

pytestmark = pytest.mark.slow

# How many parts the data has, and processes that work on the same part, one after the other.
SHARDED, HALVES, BOTH = (2, 1), (1, 2), (2, 2)
RUNS = {
    "sharded": SHARDED,
    "in one file": SHARDED,
    "plain loader": SHARDED,
    "two halves": HALVES,
    "both": BOTH,
    "both, plain loader": BOTH,
}


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return together(tmp_path_factory, "model_parallel_process", 4)[1]


def of_parts(four, name, sizes):
    """The runs of the processes that work on the same part, for each part."""
    runs = [rank[name] for rank in four if name in rank]
    assert len(runs) == sizes[0] * sizes[1]
    return [runs[part * sizes[1] : (part + 1) * sizes[1]] for part in range(sizes[0])]


def one_of_each(four, name, sizes):
    return [runs[0] for runs in of_parts(four, name, sizes)]


@pytest.mark.parametrize(("name", "sizes"), RUNS.items())
class TestRun:
    def test_processes_with_the_same_part_see_the_same_batches(self, four, name, sizes):
        for runs in of_parts(four, name, sizes):
            assert all(run["seen"] == runs[0]["seen"] for run in runs)

    def test_each_part_is_seen_by_one_of_them(self, four, name, sizes):
        steps = [step for run in one_of_each(four, name, sizes) for step in run["seen"]]
        assert sorted(i for step in steps for i in step if i < POOL_IDS) == sorted([*range(40)] * EPOCHS)

    def test_draws_and_rates_are_those_of_one_process(self, four, name, sizes):
        runs = one_of_each(four, name, sizes)
        one = OneProcess(rows_per_draw=4 * len(runs))
        one.follow(runs)
        assert_shared_out(runs, one)
        assert one.rates[-1] != one.rates[0]
        assert all(run["rates"] == one.rates for run in runs)

    def test_all_log_the_same(self, four, name, sizes):
        runs = [run for part in of_parts(four, name, sizes) for run in part]
        assert ours(runs[0])
        assert all(ours(run) == ours(runs[0]) for run in runs)
        # Epochs of 40 samples and half as many rehearsed, whatever the number of processes.
        assert all(run["units"] == N_POOL + 3 * EPOCHS * (40 + 20) for run in runs)

    def test_weights_are_sharded(self, four, name, sizes):
        assert all(run["sharded"] for run in one_of_each(four, name, sizes))


@pytest.mark.parametrize("name", ["plain loader", "both, plain loader"])
def test_lightning_shares_out_the_finetune_samples(four, name):
    assert four[0][name]["sampler"] == "DistributedSampler"


@pytest.mark.parametrize("name", ["sharded", "in one file", "both"])
def test_resumed_run_is_the_uninterrupted_one(four, name):
    for rank in four:
        if name in rank:
            whole, resumed = rank[name], rank[f"{name} resumed"]
            assert resumed["seen"] == whole["seen"][STEP:]
            assert resumed["rates"] == whole["rates"][STEP:]
            assert resumed["weights"] == whole["weights"]
            assert resumed["units"] == whole["units"]
            assert ours(resumed) == [row for row in ours(whole) if row[0] >= STEP]


def test_global_draws_go_on_with_another_number_of_processes(four):
    one = OneProcess(rows_per_draw=8)
    last = one.follow(one_of_each(four, "sharded", SHARDED), n_batches=STEP)
    runs = one_of_each(four, "2 to 4", (4, 1))
    one.follow(runs, first=last + 1)
    assert_shared_out(runs, one, first=last + 1)
    assert all(run["rates"] == one.rates[STEP:] for run in runs)


def test_oracle_looks_at_a_sharded_model(four):
    one, two = one_of_each(four, "oracle", SHARDED)
    assert one["rates"] == two["rates"]
    assert one["rates"][0] != one["rates"][-1]


def test_other_weights_are_refused_on_all_processes(four):
    for rank in four[:2]:
        assert "must be the base model the ledger was made with" in rank["other weights"]["refused"]


def test_recording_with_a_sharded_module_is_refused(four):
    for rank in four[:2]:
        assert "a sharded module cannot be run to find" in rank["no ledger"]["refused"]
