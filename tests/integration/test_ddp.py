"""Two processes on the CPU: one global draw shared out, one set of rates, one ledger, exact resume."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from lightning_mixcd import Ledger, MixCD, Pool, RehearsalCallback
from tests.toys import N_POOL, POOL_IDS, Toy, finetune, ledger, pool, rehearsed, trainer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where both processes wrote; run once, also where tests run side by side."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "two_processes"
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 300
        while not (folder / "told.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    else:
        told = run_two_processes(folder)
        (folder / "part").write_text(json.dumps(told))
        (folder / "part").rename(folder / "told.json")
    codes, told = json.loads((folder / "told.json").read_text())
    assert codes == [0, 0], "\n".join(told)
    return folder


def run_two_processes(folder):
    """Exit codes and what was printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
    }
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.integration.two_processes", str(folder)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, **settings, "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    told = [child.communicate(timeout=300)[0] for child in children]
    return [child.returncode for child in children], told


@pytest.fixture(scope="module")
def ranks(folder):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


RUNS = ["recording", "again", "workers", "oracle", "mixcd whole", "oracle whole"]


def drawn(run):
    return [[i - POOL_IDS for i in step if i >= POOL_IDS] for step in run["seen"]]


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
    ours = [
        [(step, {k: v for k, v in row.items() if k.startswith("rehearsal/")}) for step, row in run["logged"]]
        for run in (one, two)
    ]
    assert ours[0] == ours[1]


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
    rows = [rank["recording"]["rows_forwarded"] - rank["again"]["rows_forwarded"] for rank in ranks]
    assert rows == [N_POOL, 0]
    assert Ledger.open(folder / "base.ledger").correct.tolist() == ledger().correct.tolist()
    assert ranks[0]["recording"]["seen"] == ranks[0]["again"]["seen"]


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
