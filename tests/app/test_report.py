import sys

import pytest

from lightning_mixcd.app.report import main
from lightning_mixcd.report.figures import NAMES
from tests.report.runs import PRIOR, record, write_sweep


@pytest.fixture
def report(monkeypatch, capsys):
    """Run the command in this process and return what it printed."""

    def report(*arguments):
        monkeypatch.setattr(sys, "argv", ["mixcd-report", *map(str, arguments)])
        main()
        return capsys.readouterr().out

    return report


def left(folder):
    return {path.name for path in folder.iterdir() if path.is_file()}


ALWAYS = {"report.html", "table.csv", "table.md"}


def test_every_figure_is_written_thrice(tmp_path, report):
    printed = report(write_sweep(tmp_path))
    assert left(tmp_path) == ALWAYS | {f"{name}.{end}" for name in NAMES for end in ("png", "svg", "csv")}
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in printed for name in (*PRIOR, "report.html"))


def test_figures_of_an_earlier_report_do_not_stay(tmp_path, report):
    report(write_sweep(tmp_path))
    report(tmp_path, "--only", "none")
    shown = ("pareto", "curves", "composition", "cost")
    assert left(tmp_path) == ALWAYS | {f"{name}.{end}" for name in shown for end in ("png", "svg", "csv")}


def test_what_a_reader_has_to_mind_is_printed_and_in_the_page(tmp_path, report):
    write_sweep(tmp_path)
    (tmp_path / "run0-0" / "result.json").unlink()
    note = f"Incomplete, without a record, and in no table or figure: {tmp_path / 'run0-0'}"
    assert note in report(tmp_path)
    assert note in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_runs_that_cannot_be_compared_are_refused_before_anything_is_written(tmp_path, report, capsys):
    write_sweep(tmp_path)
    path = tmp_path / "run3-0" / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("rot90", "invert"))
    with pytest.raises(SystemExit):
        report(tmp_path)
    assert "Runs of different tasks cannot be compared" in capsys.readouterr().err
    assert left(tmp_path) == set()


def test_name_with_markup_is_printed_as_it_is(tmp_path, report):
    record("uniform").write(tmp_path / "a")
    record("mixcd[red]$x$").write(tmp_path / "b")
    assert "mixcd[red]$x$" in report(tmp_path)
