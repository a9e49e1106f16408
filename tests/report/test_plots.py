import numpy as np
import pytest

from lightning_mixcd.report import Record
from lightning_mixcd.report.plots import plot_pareto, plot_rates, read_rates


def record(name, prior, seed=0, weight=1.0, new=0.9):
    return Record(name, 0.25, seed, "digits", prior, new, 1, 1.0, rehearsal_weight=weight)


def test_pareto_shows_each_method_at_its_mean():
    records = [
        record(name, prior + change, seed)
        for name, prior in (("uniform", 0.5), ("mixcd", 0.7))
        for seed, change in ((0, -0.1), (1, 0.1))
    ]
    (axes,) = plot_pareto(records).axes
    shown = {line.get_label(): line.get_xydata()[0] for line in axes.lines}
    assert shown["mixcd"] == pytest.approx([90, 70])
    assert shown["uniform"] == pytest.approx([90, 50])
    assert "2 seeds" in axes.get_title()


def test_settings_of_a_method_are_one_line():
    records = [record("mixcd", prior, weight=weight) for weight, prior in ((3, 0.8), (0.5, 0.6), (1, 0.7))]
    (line,) = [line for line in plot_pareto(records).axes[0].lines if line.get_label() == "mixcd"]
    assert line.get_ydata() == pytest.approx([60, 70, 80])


def test_methods_of_a_large_comparison_look_different():
    records = [record(f"method {k}", 0.5 + 0.01 * k) for k in range(40)]
    lines = plot_pareto(records).axes[0].lines
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 40


def test_method_far_from_all_others_does_not_press_these_together():
    records = [record(f"method {k}", 0.8 + 0.01 * k) for k in range(5)]
    (axes,) = plot_pareto([*records, record("none", 0.1)]).axes
    assert axes.get_ylim()[0] > 50
    assert "none: 90.0, 10.0" in [line.get_label() for line in axes.lines]


def test_rates_are_averaged_over_runs(tmp_path):
    files = []
    for k, rate in enumerate((0.2, 0.4)):
        files.append(tmp_path / f"{k}.csv")
        files[-1].write_text(
            f"step,rehearsal/rate/00,rehearsal/rate/01,val\n9,{rate},0.5,\n9,,,0.3\n19,0.1,0.7,\n"
        )
    steps, rates = read_rates(files[0])
    assert steps.tolist() == [9, 19]
    assert rates.tolist() == [[0.2, 0.5], [0.1, 0.7]]
    panel = plot_rates({"mixcd": files}).axes[0]
    assert np.asarray(panel.collections[0].get_array()).ravel() == pytest.approx([0.3, 0.1, 0.5, 0.7])


def test_run_without_rates_gives_none(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val\n9,0.1\n")
    steps, rates = read_rates(tmp_path / "metrics.csv")
    assert (steps.size, rates.size) == (0, 0)
