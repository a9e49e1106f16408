import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from lightning_mixcd.report import Record, read_logged, read_records

GOOD = Record("mixcd", 0.25, 3, "digits", 0.9, 0.8, 1234, 2.5, penalties=("ewc", "lwf"), exhausted=True)


def test_round_trip(tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    GOOD.write(folder)
    assert read_records(tmp_path) == read_records(str(tmp_path)) == {folder: GOOD}


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is no result\.json below .*mixcd-train"):
        read_records(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"strategy": "mixcd"}'])
def test_broken_record_is_named(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"result\.json is not a run's record"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    "make", [lambda path: path.write_bytes(b"\xff"), Path.mkdir], ids=["bytes", "folder"]
)
def test_record_that_is_no_text_is_named(make, tmp_path):
    make(tmp_path / "result.json")
    with pytest.raises(ValueError, match=r"result\.json is not a run's record"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("prior_accuracy", "0.9", "`prior_accuracy` must be a number, got '0.9'"),
        ("new_accuracy", None, "`new_accuracy` must be a number, got None"),
        ("compute_units", True, "`compute_units` must be a number, got True"),
        ("seconds", 0, "`seconds` must be above 0, got 0"),
        ("seconds", "1", "`seconds` must be a number, got '1'"),
        ("damaged_share", [], "`damaged_share` must be a number"),
    ],
)
def test_value_that_is_no_measurement_is_named(name, value, complaint, tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({**asdict(GOOD), name: value}))
    with pytest.raises(ValueError, match=rf"result\.json is not a run's record .*{complaint}"):
        read_records(tmp_path)


def test_record_of_an_earlier_release_is_read(tmp_path):
    values = asdict(replace(GOOD, checkpoints=("a.ckpt",), data_hash="0a"))
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert read_records(tmp_path)[tmp_path].checkpoints == ("a.ckpt",)
    del values["checkpoints"], values["data_hash"]
    (tmp_path / "result.json").write_text(json.dumps(values))
    assert read_records(tmp_path)[tmp_path] == GOOD


def test_record_that_does_not_say_its_penalties_is_refused(tmp_path):
    values = asdict(GOOD)
    del values["penalties"]
    (tmp_path / "result.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"result\.json is not a run's record .*penalties"):
        read_records(tmp_path)


def test_runs_of_one_method_at_several_settings_are_kept_apart(tmp_path):
    other = {"rehearsal_weight": 3.0}, {"mix_ratio": 1.0}, {"alpha": 0.5}, {"seed": 4}
    for k, change in enumerate(({}, *other)):
        replace(GOOD, **change).write(tmp_path / str(k))
    assert len(read_records(tmp_path)) == 5


def test_two_runs_of_one_name_setting_and_seed_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        GOOD.write(tmp_path / name)
    with pytest.raises(ValueError, match=r"both mixcd, mix ratio 0.25, seed 3.*`name=mixcd_label`"):
        read_records(tmp_path)


def test_runs_of_different_data_are_not_mixed(tmp_path):
    for name in ("digits", "intents"):
        (tmp_path / name).mkdir()
        Record("mixcd", 0.25, 3, name, 0.9, 0.8, 1234, 2.5).write(tmp_path / name)
    with pytest.raises(ValueError, match=r"\['digits', 'intents'\]"):
        read_records(tmp_path)


def test_what_was_logged_is_read_by_name_and_step(tmp_path):
    metrics = tmp_path / "metrics.csv"
    assert read_logged(metrics, "rehearsal/") == {}
    metrics.write_text("step,loss,rehearsal/damaged_share\n0,1,0.5\n1,2,\n2,3,nan\n3,4,0.25\n")
    assert [*read_logged(str(metrics), "rehearsal/")["rehearsal/damaged_share"]] == [0, 2, 3]
