import numpy as np
import pytest

from lightning_mixcd.report import Record
from lightning_mixcd.report.plots import plot_pareto, plot_rates, read_rates


def test_pareto_shows_each_strategy_at_its_mean():
    records = [
        Record(name, 0.25, seed, "digits", prior, 0.9, 1, 1.0)
        for name, prior in (("uniform", 0.5), ("mixcd", 0.7))
        for seed, prior in ((0, prior - 0.1), (1, prior + 0.1))
    ]
    (axes,) = plot_pareto(records).axes
    shown = {bar.get_label(): bar.lines[0].get_xydata()[0] for bar in axes.containers}
    assert shown["mixcd"] == pytest.approx([90, 70])
    assert shown["uniform"] == pytest.approx([90, 50])
    assert "2 seeds" in axes.get_title()


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
