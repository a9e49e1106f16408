import math

import pytest

from lightning_mixcd.report.records import METRICS
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import record, write_run, write_sweep


def test_groups_hold_the_runs_of_all_seeds(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path))
    assert {name: len(runs) for (name, _), runs in sweep.groups.items()} == dict.fromkeys(sweep.styles, 3)
    assert sweep.seeds == "3 seeds"
    assert sweep.notes == []


def test_run_without_a_record_is_noted_and_nowhere_else(tmp_path):
    write_sweep(tmp_path)
    (tmp_path / "run0-0" / "result.json").unlink()
    sweep = read_sweep(tmp_path)
    assert sweep.notes == [f"Incomplete, without a record, and in no table or figure: {tmp_path / 'run0-0'}"]
    assert tmp_path / "run0-0" not in sweep.logs
    assert sweep.seeds == "2 to 3 seeds"


@pytest.mark.parametrize("name", ["record.log", "chain.json"])
def test_runs_that_are_no_finetuning_are_not_incomplete(tmp_path, name):
    write_sweep(tmp_path)
    (tmp_path / "run0-0" / "result.json").unlink()
    (tmp_path / "run0-0" / name).touch()
    assert read_sweep(tmp_path).notes == []


def test_run_without_a_number_as_accuracy_is_noted_and_nowhere_else(tmp_path):
    record("uniform", 0, new=math.nan).write(tmp_path / "a")
    with pytest.raises(ValueError, match="none has accuracies that are numbers"):
        read_sweep(tmp_path)
    record("uniform", 1).write(tmp_path / "b")
    sweep = read_sweep(tmp_path)
    assert sweep.notes == [
        f"Its accuracies are not all numbers, and it is in no table or figure: {tmp_path / 'a'}"
    ]
    assert [*sweep.records] == [*sweep.logs] == [tmp_path / "b"]


def test_reference_without_a_number_is_none_to_compare_with(tmp_path):
    record("uniform", new=math.nan).write(tmp_path / "a")
    record("mixcd").write(tmp_path / "b")
    (note, _) = read_sweep(tmp_path).notes
    assert "No run is of uniform, so that there are no gains" in note


def test_runs_that_links_lead_to_are_there_once(tmp_path):
    write_sweep(tmp_path / "elsewhere", ["mixcd"], seeds=2)
    (tmp_path / "elsewhere" / "run0-1" / "result.json").unlink()
    write_sweep(tmp_path / "here", ["uniform"], seeds=1)
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "here" / "again").symlink_to(tmp_path / "here", target_is_directory=True)
    (tmp_path / "here" / "latest").symlink_to(tmp_path / "here" / "run0-0", target_is_directory=True)
    sweep = read_sweep(tmp_path / "here")
    linked = tmp_path / "here" / "linked"
    assert [*sweep.records] == [linked / "run0-0", tmp_path / "here" / "run0-0"]
    assert sweep.notes == [f"Incomplete, without a record, and in no table or figure: {linked / 'run0-1'}"]


@pytest.mark.parametrize("text", ["val\n0.1\n", "step,val\n9,high\n", 'step,val\n9,"0.', "\udcff"])
def test_damaged_log_is_noted_and_its_run_is_in_the_table_only(tmp_path, text):
    write_sweep(tmp_path)
    path = tmp_path / "run1-0" / METRICS
    path.write_bytes(text.encode(errors="surrogateescape"))
    sweep = read_sweep(tmp_path)
    (note,) = sweep.notes
    assert f"In no curve: {path} is damaged" in note
    assert not sweep.logs[tmp_path / "run1-0"]
    assert {row.n for row in sweep.rows} == {3}


def test_reference_that_is_not_there_or_left_out_is_noted(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path), reference="mir")
    assert "No run is of mir" in sweep.notes[0]
    sweep = read_sweep(tmp_path, only="none,mixcd")
    assert "--only leaves out uniform, so that there are no gains" in sweep.notes[0]


def test_names_say_what_varies(tmp_path):
    write_run(tmp_path / "a", record(rehearsal_weight=3.0))
    sweep = read_sweep(tmp_path)
    assert [sweep.label(group) for group in sweep.groups] == ["uniform"]
    write_run(tmp_path / "b", record(rehearsal_weight=0.5))
    sweep = read_sweep(tmp_path)
    assert [sweep.label(group) for group in sweep.groups] == ["uniform, weight 0.5", "uniform, weight 3"]


def test_only_some_methods(tmp_path):
    assert [*read_sweep(write_sweep(tmp_path), only="mixcd,none").styles] == ["none", "mixcd"]
    with pytest.raises(ValueError, match=r"`--only` must name methods of these runs, got \['mir'\]"):
        read_sweep(tmp_path, only="mir")
