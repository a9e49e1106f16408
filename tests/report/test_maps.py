import numpy as np
import pytest

from lightning_mixcd.report.maps import damage_map, rehearsed_map
from lightning_mixcd.report.sweep import read_sweep
from tests.report.runs import STEPS, record, write_run


def test_run_without_rates_gives_none(tmp_path):
    record().write(tmp_path)
    assert damage_map(read_sweep(tmp_path)) is rehearsed_map(read_sweep(tmp_path)) is None


def test_map_shows_the_mean_over_seeds(tmp_path):
    for seed, rates in enumerate([(0.2, 0.5), (0.4, 0.7)]):
        write_run(tmp_path / str(seed), record("mixcd", seed), rates=rates)
    picture = damage_map(read_sweep(tmp_path))
    assert [(row["bin"], row["step"]) for row in picture.rows] == [(k, s) for k in (0, 1) for s in STEPS]
    assert [row["rate"] for row in picture.rows] == pytest.approx([0.3] * 3 + [0.6] * 3)
    assert shown_of(picture) == pytest.approx(np.array([[30] * 3, [60] * 3]))
    for mesh in picture.figure.axes[0].collections:
        assert mesh.get_clim() == pytest.approx((0, 60))


def shown_of(picture):
    return np.array([np.asarray(mesh.get_array()).ravel() for mesh in picture.figure.axes[0].collections])


def test_map_of_what_was_rehearsed_shows_what_came_in_between(tmp_path):
    rows = [((2, 3, 13), (6, 9, 9)), ((5, 9, 9), (5, 5, 10))]
    for seed, of_seed in enumerate(rows):
        write_run(tmp_path / str(seed), record("mixcd", seed), rows=of_seed)
    picture = rehearsed_map(read_sweep(tmp_path))
    first = [(2 / 8 + 5 / 10) / 2, (1 / 4 + 4 / 4) / 2, (10 / 10 + 0 / 5) / 2]
    assert [(row["bin"], row["step"]) for row in picture.rows] == [(k, s) for k in (0, 1) for s in STEPS]
    assert [row["share"] for row in picture.rows] == pytest.approx([*first, *(1 - share for share in first)])
    assert shown_of(picture)[0] == pytest.approx(100 * np.array(first))


def test_steps_without_rehearsal_count_with_the_next_ones(tmp_path):
    write_run(tmp_path, record("mixcd"), rows=((0, 5, 5), (0, 5, 5)))
    found = [(row["step"], row["share"]) for row in rehearsed_map(read_sweep(tmp_path)).rows]
    assert found == [(19, 0.5), (19, 0.5)]
    write_run(tmp_path, record("mixcd"), rows=((2, 2, 3), (2, 2, 6)))
    found = [(row["step"], row["share"]) for row in rehearsed_map(read_sweep(tmp_path)).rows]
    assert found == [(9, 0.5), (29, 0.2), (9, 0.5), (29, 0.8)]


def test_no_map_where_nothing_was_rehearsed(tmp_path):
    write_run(tmp_path, record("mixcd"), rows=((0, 0, 0), (0, 0, 0)))
    assert rehearsed_map(read_sweep(tmp_path)) is None
