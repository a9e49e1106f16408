"""Records of chains on disk, and methods compared by them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from lightning_mixcd.report.chains import SCORES, ChainRecord, compare_chains, read_chains
from lightning_mixcd.report.intervals import t_interval
from lightning_mixcd.report.matrix import plot_matrices
from tests.oracles import task_matrix as oracle

TASKS = ["a", "b", "c"]


def record(name="mixcd", seed=0, tasks=TASKS, **settings):
    n = len(tasks)
    values = np.random.default_rng([seed, *map(ord, name)]).random((n + 1, n)).tolist()
    given = {"mix_ratio": 0.25, "rehearsal_weight": 1.0, **settings}
    return ChainRecord(
        name, given["mix_ratio"], given["rehearsal_weight"], seed, tasks, *values[:1], values[1:], 9, 1.5
    )


def write(folder, *records):
    for k, one in enumerate(records):
        (folder / str(k)).mkdir()
        one.write(folder / str(k))


def test_scores_are_those_of_the_matrix():
    one = record()
    for name, score in SCORES.items():
        assert one.scores[name] == pytest.approx(getattr(oracle, score.__name__)(one.accuracies))
    assert one.scores["forward_transfer"] == pytest.approx(
        oracle.forward_transfer(one.accuracies, one.initial)
    )


def test_records_come_back(tmp_path):
    records = [record(seed=1), record(seed=2), record(seed=1, rehearsal_weight=2.0), record("none")]
    write(tmp_path, *records)
    assert read_chains(tmp_path) == records
    assert json.loads((tmp_path / "0" / "chain.json").read_text())["scores"] == records[0].scores


def test_no_chain_is_none(tmp_path):
    assert read_chains(tmp_path) == []


def test_two_of_one_kind_are_refused(tmp_path):
    write(tmp_path, record(), record())
    with pytest.raises(ValueError, match=r"Chains must differ in name, setting or seed, but .*0.* and .*1"):
        read_chains(tmp_path)


def test_other_tasks_are_refused(tmp_path):
    write(tmp_path, record(), record(seed=1, tasks=["a", "b"]))
    with pytest.raises(ValueError, match=r"Chains must be of the same tasks .* got \['a', 'b', 'c'\] and"):
        read_chains(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"scores": {}, "name": "x"}'])
def test_what_is_no_record_is_refused(tmp_path, text):
    (tmp_path / "chain.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"chain.json must be a record of a chain .* Remove it, or run again"
    ):
        read_chains(tmp_path)


def test_gains_are_pairs_by_seed_at_the_same_setting():
    ours = [replace(record("mixcd", seed), compute_units=9 + seed, seconds=2.0 * seed) for seed in range(4)]
    reference = [record("uniform", seed) for seed in range(1, 6)]
    elsewhere = [record("uniform", seed, rehearsal_weight=3.0) for seed in range(4)]
    rows = {(row.name, row.setting): row for row in compare_chains([*ours, *reference, *elsewhere])}
    row = rows["mixcd", ours[0].setting]
    for name in SCORES:
        both = zip(ours[1:], reference[:3], strict=True)
        pairs = [one.scores[name] - other.scores[name] for one, other in both]
        assert row.gains[name] == t_interval(pairs)
        assert row.scores[name] == t_interval([one.scores[name] for one in ours])
    assert row.n == 4
    assert row.accuracies == pytest.approx(np.mean([one.accuracies for one in ours], axis=0))
    assert row.initial == pytest.approx(np.mean([one.initial for one in ours], axis=0))
    assert (row.compute_units, row.seconds) == (10.5, 3.0)
    assert rows["uniform", reference[0].setting].gains == {}


def test_method_without_a_reference_has_no_gains():
    (row,) = compare_chains([record()], "uniform")
    assert row.gains == {}


@pytest.mark.parametrize("n_before", [0, 1])
@pytest.mark.parametrize("n_methods", [1, 4])
def test_heat_map_shows_each_cell_where_it_belongs(n_before, n_methods):
    matrices = {f"method {k}": np.arange(9 + 3 * n_before).reshape(-1, 3) / 20 for k in range(n_methods)}
    figure = plot_matrices(matrices, TASKS)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert [*panels] == [*matrices]
    for title, axes in panels.items():
        written = {text.get_position(): text.get_text() for text in axes.texts}
        shown = axes.images[0].get_array()
        for (stage, column), value in np.ndenumerate(matrices[title]):
            assert written[column, stage] == f"{100 * value:.0f}"
            assert shown[stage, column] == pytest.approx(100 * value)
        assert [label.get_text() for label in axes.get_xticklabels()] == TASKS
        assert [label.get_text() for label in axes.get_yticklabels()] == ["nothing"] * n_before + TASKS
        learnt = {(task, stage + n_before) for stage in range(3) for task in range(stage + 1)}
        assert {(round(box.get_x()), round(box.get_y())) for box in axes.patches} == learnt
