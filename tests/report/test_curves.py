import math

import numpy as np
import pytest

from lightning_mixcd.report.curves import WINDOWS, composition, curves, over_seeds
from lightning_mixcd.report.intervals import t_interval
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import STEPS, record, write_run, write_sweep


def test_steps_far_apart_are_points_of_their_own():
    rng = np.random.default_rng(0)
    steps = [10 * k for k in range(20)]
    runs = [{step: float(rng.random()) for step in steps} for _ in range(4)]
    points = over_seeds(runs, 199)
    assert [point.step for point in points] == steps
    for point in points:
        assert point.value == t_interval([run[int(point.step)] for run in runs])


def test_many_steps_are_averaged_within_equal_windows():
    n = 10 * WINDOWS
    run = {step: float(step**2) for step in range(n)}
    points = over_seeds([run], n - 1)
    assert len(points) == WINDOWS
    for k, point in enumerate(points):
        members = range(10 * k, 10 * k + 10)
        assert point.step == np.mean(members)
        assert point.value.mean == pytest.approx(np.mean([step**2 for step in members]))


def test_curve_is_where_every_seed_has_a_value():
    runs = [{0: 0.5, 50: math.nan, 99: 0.7}, {0: 0.1, 50: 0.2, 99: 0.3, 120: 0.4}]
    assert [point.step for point in over_seeds(runs, 120)] == [0, 99]


def test_figure_shows_the_means_of_each_task(tmp_path):
    picture = curves(read_sweep(write_sweep(tmp_path)))
    rows = [row for row in picture.rows if row["method"] == "mixcd"]
    prior = [row for row in rows if row["quantity"] == "val/prior/accuracy"]
    assert [row["step"] for row in prior] == [*STEPS]
    assert [row["mean"] for row in prior] == pytest.approx([0.84 + 0.01 + 0.002] * 3)
    panel = picture.figure.axes[0]
    assert panel.get_ylabel() == "prior task (%)"
    assert pytest.approx([85.2] * 3) in [line.get_ydata().tolist() for line in panel.lines]


def test_each_setting_has_panels_of_its_own(tmp_path):
    for weight in (1.0, 3.0):
        write_run(tmp_path / str(weight), record(rehearsal_weight=weight))
    picture = curves(read_sweep(tmp_path))
    assert [axes.get_title(loc="left") for axes in picture.figure.axes] == [
        "weight 1",
        "weight 1",
        "weight 3",
        "weight 3",
    ]


def test_no_figure_of_what_was_not_logged(tmp_path):
    record().write(tmp_path)
    sweep = read_sweep(tmp_path)
    assert curves(sweep) is composition(sweep) is None
