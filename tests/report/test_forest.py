import pytest

from lightning_mixcd.report.forest import cost, gains, gap
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import record, write_run, write_sweep


@pytest.mark.parametrize(
    ("draw", "name", "of"),
    [
        (gains, "prior_gain", lambda row: row.prior_gain),
        (gains, "new_gain", lambda row: row.new_gain),
        (gap, "gap_closed", lambda row: row.gap_closed),
        (cost, "time", lambda row: row.seconds),
    ],
)
def test_figure_has_the_values_of_the_table(tmp_path, draw, name, of):
    sweep = read_sweep(write_sweep(tmp_path))
    shown = {row["method"]: (row[name], row[f"{name}_low"], row[f"{name}_high"]) for row in draw(sweep).rows}
    expected = {row.name: (of(row).mean, of(row).low, of(row).high) for row in sweep.rows}
    assert shown == expected


def test_every_interval_says_how_many_seeds_it_is_over(tmp_path):
    write_sweep(tmp_path)
    write_run(tmp_path / "more", record("mixcd", seed=3))
    (tmp_path / "run0-0" / "result.json").unlink()  # of plain finetuning
    sweep = read_sweep(tmp_path)
    pictures = {name: draw(sweep) for name, draw in {"gains": gains, "gap": gap, "cost": cost}.items()}
    of_gains, of_gap, of_cost = (
        next(row for row in picture.rows if row["method"] == "mixcd") for picture in pictures.values()
    )
    assert (of_gains["seeds"], of_gains["prior_gain_n"], of_gap["gap_closed_n"]) == (4, 3, 3)
    assert (of_cost["compute_units_n"], of_cost["time_n"]) == (4, 2)
    said = [text for mark in pictures["cost"].marks.values() if mark.method == "mixcd" for text in mark.texts]
    assert [text.rpartition(", ")[2] for text in said] == ["4 seeds", "2 seeds"]


def test_best_method_is_on_top(tmp_path):
    rows = gains(read_sweep(write_sweep(tmp_path))).rows
    assert [row["method"] for row in rows] == ["oracle", "mixcd", "uniform", "none"]


def test_every_row_has_its_place_and_parts(tmp_path):
    picture = gains(read_sweep(write_sweep(tmp_path)))
    places = {(mark.place, mark.method) for mark in picture.marks.values()}
    assert places == set(enumerate(row["method"] for row in picture.rows))
    assert picture.stack.n == 4


def test_value_far_from_all_others_stands_at_the_edge_with_its_number(tmp_path):
    for k in range(8):
        write_run(tmp_path / str(k), record("uniform" if k == 0 else f"m{k}", prior=0.8 + 0.01 * k))
    write_run(tmp_path / "far", record("far", prior=0.1))
    axes = gains(read_sweep(tmp_path)).figure.axes[0]
    assert axes.get_xlim()[0] > -10
    assert "-70" in [text.get_text() for text in axes.texts]


def test_nothing_to_compare_with_is_no_figure(tmp_path):
    record("mixcd").write(tmp_path)
    sweep = read_sweep(tmp_path)
    assert gains(sweep) is gap(sweep) is None
    assert cost(sweep) is not None
