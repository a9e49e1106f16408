from dataclasses import replace

import pytest

from lightning_mixcd.report.intervals import t_interval
from lightning_mixcd.report.pareto import pareto
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import record, write_run, write_sweep


def drawn(picture, method):
    """Points of a method's marks."""
    lines = {line.get_gid(): line for line in picture.figure.axes[0].lines}
    return [
        line.get_xydata().tolist()
        for gid, line in lines.items()
        if gid in picture.marks and picture.marks[gid].method == method and picture.marks[gid].texts
    ]


def test_each_method_is_at_its_mean_with_its_interval(tmp_path):
    sweep = read_sweep(write_sweep(tmp_path))
    picture = pareto(sweep)
    for row in picture.rows:
        runs = [found for found in sweep.records.values() if found.name == row["method"]]
        interval = t_interval([run.prior_accuracy for run in runs])
        ends = (interval.mean, interval.low, interval.high)
        assert (row["prior"], row["prior_low"], row["prior_high"]) == ends
        ((point,),) = drawn(picture, row["method"]) if row["method"] != "none" else (((None,)),)
        assert point is None or point == pytest.approx([100 * row["new"], 100 * row["prior"]])
    assert "3 seeds" in picture.caption


def test_settings_of_a_method_are_joined_in_their_order(tmp_path):
    for weight, prior in ((3.0, 0.8), (0.5, 0.6), (1.0, 0.7)):
        write_run(tmp_path / str(weight), record("mixcd", prior=prior, rehearsal_weight=weight))
    picture = pareto(read_sweep(tmp_path))
    assert picture.figure.axes[0].lines[0].get_ydata() == pytest.approx([60, 70, 80])


def test_method_far_from_all_others_does_not_press_these_together(tmp_path):
    for k in range(5):
        write_run(tmp_path / str(k), record(f"method {k}", prior=0.8 + 0.01 * k))
    write_run(tmp_path / "none", record("none", prior=0.1))
    axes = pareto(read_sweep(tmp_path)).figure.axes[0]
    assert axes.get_ylim()[0] > 50
    assert "none: 90.0, 10.0" in [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({}, "All runs made 30 steps"),
        ({"steps": 40}, "Runs differ in what they spent: 30 to 40 steps"),
        ({"steps": 40, "exhausted": True}, "Runs differ"),
    ],
)
def test_caption_says_what_is_equal(tmp_path, second, said):
    write_run(tmp_path / "a", record("uniform"))
    write_run(tmp_path / "b", record("mixcd", **second))
    assert said in pareto(read_sweep(tmp_path)).caption


def test_caption_says_equal_compute_though_oracles_look_for_free(tmp_path):
    write_run(tmp_path / "a", record("uniform", exhausted=True))
    write_run(tmp_path / "b", record("oracle", steps=50))
    caption = pareto(read_sweep(tmp_path)).caption
    assert "All runs ended at equal compute, 1,000 units; those of oracles look for free." in caption


@pytest.mark.parametrize(
    ("steps", "said"),
    [(30, "All runs made 30 steps, at 1"), (31, "Runs differ in what they spent: 30 to 31 steps, 1")],
)
def test_caption_says_of_oracles_alone_that_they_look_for_free(steps, said, tmp_path):
    write_run(tmp_path / "a", record("uniform"))
    write_run(tmp_path / "b", replace(record("mixcd"), compute_units=1500))
    without = pareto(read_sweep(tmp_path)).caption
    write_run(tmp_path / "c", replace(record("oracle", steps=steps), compute_units=9000))
    assert (
        f"{said},000 to 1,500 compute units; those of oracles look for free."
        in pareto(read_sweep(tmp_path)).caption
    )
    assert "All runs made 30 steps, at 1,000 to 1,500 compute units." in without


@pytest.mark.parametrize(("more", "said"), [(10, "All runs ended at equal compute"), (600, "Runs differ")])
def test_budgets_that_differ_are_not_called_equal(tmp_path, more, said):
    write_run(tmp_path / "a", record("uniform", exhausted=True))
    larger = replace(record("mixcd", exhausted=True, steps=40), compute_units=1000 + more)
    write_run(tmp_path / "b", larger)
    assert said in pareto(read_sweep(tmp_path)).caption
