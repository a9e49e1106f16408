"""`mixcd-report` on chains: the table, its files, and the heat maps."""

import csv

import pytest

from lightning_mixcd.app import report
from lightning_mixcd.report.chains import SCORES, ChainRecord
from lightning_mixcd.report.records import Record


def write(folder, name, seed, last, **settings):
    accuracies = [[0.9, 0.2], [last + 0.01 * seed, 0.8]]
    given = {"mix_ratio": 0.25, "rehearsal_weight": 1.0, **settings}
    one = ChainRecord(name, *given.values(), seed, ["up", "down"], [0.1, 0.1], accuracies, 100 * seed, 1.0)
    (at := folder / f"{name}_{seed}_{given['mix_ratio']}").mkdir()
    one.write(at)


def run(folder, monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["mixcd-report", str(folder), *arguments])
    report.main()
    with (folder / "chains.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = (folder / "chains.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(line) == len(cells[0]) for line in cells)
    return rows, [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]


@pytest.fixture
def sweep(tmp_path):
    for seed in range(3):
        write(tmp_path, "uniform", seed, 0.6)
        write(tmp_path, "mixcd", seed, 0.7)
    return tmp_path


def test_table_shows_scores_and_gains(sweep, monkeypatch, capsys):
    rows, shown = run(sweep, monkeypatch)
    assert "up > down" in (printed := capsys.readouterr().out)
    assert "+5.0" in printed
    assert [row["method"] for row in shown] == ["mixcd", "uniform"]
    assert (shown[0]["final"], shown[1]["final"]) == ("75.5", "70.5")
    assert (shown[0]["forgetting"], shown[0]["backward"], shown[0]["transfer"]) == ("19.0", "-19.0", "20.0")
    assert shown[0]["forgetting change"] == "-10.0"
    assert shown[1]["final gain"] == "-"
    assert shown[0]["compute units"] == "100"
    for row, line in zip(rows, shown, strict=True):
        assert float(row["final_mean"]) == pytest.approx(float(line["final"]) / 100, abs=1e-3)
        assert all(row[f"{name}_{end}"] for name in SCORES for end in ("mean", "low", "high"))
    assert (sweep / "chains.png").read_bytes().startswith(b"\x89PNG")


def test_settings_are_told_apart_where_they_differ(sweep, monkeypatch):
    write(sweep, "mixcd", 0, 0.8, mix_ratio=1.0)
    _, shown = run(sweep, monkeypatch)
    assert [row["setting"] for row in shown] == ["mix ratio 0.25", "mix ratio 1", "mix ratio 0.25"]


def test_pairs_are_counted_where_a_method_has_more_seeds(sweep, monkeypatch):
    assert all("pairs" not in line for line in run(sweep, monkeypatch)[1])
    write(sweep, "mixcd", 3, 0.8)
    _, shown = run(sweep, monkeypatch)
    assert [(row["seeds"], row["pairs"]) for row in shown] == [("4", "3"), ("3", "-")]


def test_other_reference(sweep, monkeypatch):
    _, shown = run(sweep, monkeypatch, "--reference", "mixcd")
    assert [row["final gain"] for row in shown] == ["-", "-5.0"]


def test_only_some_methods(sweep, monkeypatch, capsys):
    _, shown = run(sweep, monkeypatch, "--only", "uniform")
    assert [row["method"] for row in shown] == ["uniform"]
    with pytest.raises(SystemExit):
        run(sweep, monkeypatch, "--only", "uniform,gem")
    assert "got ['gem']" in capsys.readouterr().err


def test_what_is_in_no_table_is_told(sweep, monkeypatch, capsys):
    (sweep / "killed" / ".hydra").mkdir(parents=True)
    (sweep / "killed" / ".hydra" / "config.yaml").touch()
    Record("mixcd", 0.25, 0, "digits", 0.9, 0.9, 100, 1.0).write(sweep / "single")
    run(sweep, monkeypatch, "--reference", "oracle")
    printed = capsys.readouterr().out
    assert f"Incomplete, without a record, and in no table or figure: {sweep / 'killed'}" in printed
    assert f"Beside the chains, in no table: 1 other runs, such as {sweep / 'single'}." in printed
    assert "No run is of oracle" in printed
