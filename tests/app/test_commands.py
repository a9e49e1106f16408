"""The console scripts, as a user runs them: in a folder of their own, as processes of their own."""

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_mixcd.report import read_records
from tests.processes import run_script

SHORT = ["trainer=cpu", "trainer.max_epochs=2", "base.max_epochs=2", "trainer.enable_progress_bar=false"]


def script(name):
    return Path(sys.executable).with_name(name)


def run(folder, name, *arguments):
    return run_script(script(name), *arguments, folder=folder, seconds=120)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    chosen = [
        "strategy=uniform,mixcd",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "hydra.sweep.dir=runs",
    ]
    command = [script("mixcd-train"), "-m", *chosen, *SHORT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_sweep_leaves_a_record_per_run(sweep):
    records = [json.loads(path.read_text()) for path in sorted(sweep.rglob("result.json"))]
    assert [record["name"] for record in records] == ["mixcd", "uniform"]
    assert all(0 <= record["prior_accuracy"] <= 1 for record in records)
    # 350 finetune samples twice, a quarter as many rehearsed, 3 units each; mix-cd pays for its ledger.
    assert [record["compute_units"] for record in records] == [3 * (700 + 175) + 600, 3 * (700 + 175)]
    assert all(record["steps"] == 2 * math.ceil(350 / 32) for record in records)
    assert not any(record["exhausted"] for record in records)


@pytest.mark.slow
def test_processes_that_lightning_starts_share_a_base_model_and_leave_one_record(tmp_path):
    two = ["+trainer.strategy=ddp", "trainer.devices=2", "trainer.log_every_n_steps=1"]
    records = []
    for folder in ("first", "again"):
        done = run(tmp_path, "mixcd-train", *SHORT, *two, f"hydra.run.dir={folder}")
        assert done.returncode == 0, done.stdout + done.stderr
        records += read_records(tmp_path / folder).values()
    assert len([*tmp_path.glob("base/*/base.ledger")]) == 1
    # Each process has 350 of the samples in two epochs, and a quarter as many rehearsed ones beside them.
    assert [record.compute_units for record in records] == [600 + 3 * 2 * (350 + 87)] * 2
    assert records[0].damaged_share is not None
    assert replace(records[0], seconds=0) == replace(records[1], seconds=0)


@pytest.mark.slow
def test_such_processes_make_one_chain(tmp_path):
    two = ["+trainer.strategy=ddp", "trainer.devices=2", "~stages.turned_180", "~stages.turned_270"]
    done = run(tmp_path, "mixcd-train", "stages=digits", *SHORT, *two, "hydra.run.dir=chain")
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "chain" / "chain.json").read_text())
    assert record["compute_units"] == 600 + 3 * 2 * (350 + 87)
    assert (tmp_path / "chain" / "stages" / "1_turned_90" / "weights.pt").exists()


def test_penalty_budget_and_points_towards_the_base_are_recorded(sweep):
    chosen = ["method=uniform+l2sp", "max_compute_units=1500", "wise_ft=[0,1]", "mix_ratio=0.5"]
    done = run(sweep, "mixcd-train", *chosen, "hydra.run.dir=one", *SHORT)
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_records(sweep / "one")
    assert {path.name for path in records} == {"one", "wise_ft_0"}  # the run is the point at 1
    last, base = records[sweep / "one"], records[sweep / "one" / "wise_ft_0"]
    assert base.name == last.name == "uniform+l2sp+wise_ft"
    assert (last.penalties, last.setting, base.setting) == (("l2sp",), (0.5, 1, 1), (0.5, 1, 0))
    # A step is 48 rows of 3 units each.
    assert (last.exhausted, last.steps) == (True, math.ceil(1500 / (3 * 48)))
    assert base.new_accuracy < last.new_accuracy


def test_sweep_over_methods_with_one_of_the_users_own(sweep):
    own = sweep / "myconf" / "method"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [{override /strategy: mixcd}, {override /penalty: [kd]}]\n"
        "strategy: {floor: 0.5}\n"
        "name: mine\n"
    )
    chosen = [
        "method=glob([mi?e,uniform+e*],exclude=uniform+ewc)",
        "hydra.sweep.dir=methods",
    ]
    done = run(sweep, "mixcd-train", "-m", "--config-dir", "myconf", *chosen, *SHORT, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    records = read_records(sweep / "methods").items()
    names = {re.search("method=([^,]*)", path.name)[1]: record.name for path, record in records}
    assert names == {"mine": "mine", "uniform+ema": "uniform+ema"}


def test_runs_of_one_seed_share_one_base_model(sweep):
    (base,) = (sweep / "base").iterdir()
    assert {path.name for path in base.iterdir()} == {
        "base.ledger",
        "config.yaml",
        "lock",
        "pool.json",
        "weights.pt",
    }


def test_report_reads_what_training_left(sweep):
    done = run(sweep, "mixcd-report", "runs")
    assert done.returncode == 0, done.stderr
    assert "mixcd" in done.stdout
    with (sweep / "runs" / "table.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"uniform", "mixcd"}
    gain = float(rows["mixcd"]["prior"]) - float(rows["uniform"]["prior"])
    assert float(rows["mixcd"]["prior_gain_mean"]) == pytest.approx(gain)
    assert (sweep / "runs" / "rates.png").exists()


def test_record_tells_of_the_ledger_made_already(sweep):
    before = {path: path.stat().st_mtime_ns for path in (sweep / "base").rglob("*") if path.is_file()}
    done = run(sweep, "mixcd-record", *SHORT)
    assert done.returncode == 0, done.stderr
    assert "600 samples" in done.stdout
    assert before == {path: path.stat().st_mtime_ns for path in (sweep / "base").rglob("*") if path.is_file()}


def test_record_makes_the_base_model_of_a_method_and_of_a_chain(tmp_path):
    for options in (["method=uniform+kd"], ["experiment=chain", "base_dir=base"]):
        done = run(tmp_path, "mixcd-record", *options, *SHORT)
        assert done.returncode == 0, done.stderr
        assert "600 samples" in done.stdout
    of_run, of_chain = sorted((tmp_path / "base").iterdir(), key=lambda path: path.stat().st_ctime_ns)
    assert "first: upright" not in (of_run / "config.yaml").read_text()
    assert "first: upright" in (of_chain / "config.yaml").read_text()


def test_folders_of_a_sweep_are_named_after_what_it_runs_over(tmp_path):
    chosen = ["data_dir=one,two", "seed=3", "base_dir=base", "hydra.sweep.dir=runs"]
    done = run(tmp_path, "mixcd-train", "-m", *chosen, *SHORT, "trainer.max_epochs=1")
    assert done.returncode == 0, done.stdout + done.stderr
    names = sorted(path.parent.name for path in tmp_path.rglob("result.json"))
    assert [re.findall("(?:data_dir|base_dir|seed)=[^,]*", name) for name in names] == [
        ["data_dir=one", "seed=3"],
        ["data_dir=two", "seed=3"],
    ]


def test_record_refuses_options_that_do_nothing(tmp_path):
    done = run(tmp_path, "mixcd-record", *SHORT, "+base.epochs=50")
    assert done.returncode == 1
    assert "`base` must have no keys but" in done.stderr
    assert not (tmp_path / "base").exists()


def test_configuration_that_would_not_be_read_is_refused(tmp_path):
    (file := tmp_path / "myconf" / "strategy" / "mixcd.yaml").parent.mkdir(parents=True)
    file.write_text("_target_: lightning_mixcd.MixCD\n")
    for command in ("mixcd-train", "mixcd-record"):
        done = run(tmp_path, command, "--config-dir", "myconf")
        assert done.returncode == 1
        assert f"must have names of their own, got {file}, in whose place" in done.stderr


def test_report_on_nothing_says_what_to_give(tmp_path):
    done = run(tmp_path, "mixcd-report", ".")
    assert done.returncode == 2
    assert "Give the folder of a `mixcd-train` run or sweep" in done.stderr
