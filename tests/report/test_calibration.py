import pytest

from lightning_mixcd.report.calibration import calibration
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import record, write_run, write_sweep


def test_run_without_rates_gives_none(tmp_path):
    record().write(tmp_path)
    assert calibration(read_sweep(tmp_path)) is None


def test_calibration_is_the_truth_where_the_estimate_is_alike(tmp_path):
    estimates, truths = [(0.11, 0.19, 0.55), (0.12, 0.31, 0.52)], [(0.1, 0.3, 0.5), (0.2, 0.4, 0.7)]
    for seed, (rates, true) in enumerate(zip(estimates, truths, strict=True)):
        write_run(tmp_path / str(seed), record("mixcd", seed), rates=rates, true=true)
    rows = calibration(read_sweep(tmp_path)).rows
    # Between 0.1 and 0.2: bins 0 and 1 of the first seed, bin 0 of the second.
    assert [row["seeds"] for row in rows] == [2, 1, 2]
    assert [row["estimated"] for row in rows] == pytest.approx([(0.15 + 0.12) / 2, 0.31, 0.535])
    assert [row["true"] for row in rows] == pytest.approx([0.2, 0.4, 0.6])


def test_each_setting_has_a_panel_that_names_it(tmp_path):
    for weight, true in ((3.0, (0.3, 0.5)), (1.0, (0.2, 0.4))):
        of = record("mixcd", rehearsal_weight=weight)
        write_run(tmp_path / str(weight), of, rates=(0.11, 0.55), true=true)
    panels = calibration(read_sweep(tmp_path)).figure.axes
    drawn = {panel.get_title("left"): [*panel.lines[-1].get_ydata()] for panel in panels}
    assert drawn == {"weight 1": pytest.approx([20, 40]), "weight 3": pytest.approx([30, 50])}


def test_only_steps_with_both_rates_count(tmp_path):
    write_sweep(tmp_path, ["mixcd"], seeds=1)
    path = tmp_path / "run0-0" / "logs" / "metrics.csv"
    lines = path.read_text().splitlines()
    lines[-2] = "29,0.1,0.9,0.9,0.9,,,,,"
    path.write_text("\n".join(lines))
    assert max(row["estimated"] for row in calibration(read_sweep(tmp_path)).rows) == pytest.approx(0.42)


def test_estimate_of_one_is_in_the_last_group(tmp_path):
    write_run(tmp_path, record("mixcd"), rates=(0.9, 1.0), true=(0.5, 0.7))
    [row] = calibration(read_sweep(tmp_path)).rows
    assert (row["estimated"], row["true"]) == pytest.approx((0.95, 0.6))
