"""The writer: what is accepted, when it is safe, and how it ends."""

import copy
import pathlib
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger, LedgerWriter, fingerprint_model
from tests.ledger.cases import SIZE, assert_true_content, base_model, make_writer, record, rows


@pytest.fixture
def writer(tmp_path):
    return make_writer(tmp_path / "a")


def test_rows_in_any_order(writer):
    for index in ([6, 0], [3], [5, 4, 2, 1]):
        writer.write(index, **rows(index))
    assert_true_content(writer.finish(forwards=SIZE))


def test_tensors_are_written_as_they_come(writer):
    index = torch.arange(SIZE)
    values = {name: torch.from_numpy(value) for name, value in rows(index).items() if name != "genre"}
    values["loss"] = values["loss"].bfloat16().requires_grad_()
    writer.write(index, **values, genre=rows(index)["genre"])
    assert_true_content(writer.finish(forwards=SIZE))


def test_the_last_of_repeated_rows_counts(writer):
    writer.write([2, 2], **rows([5, 2]))
    writer.write(np.arange(SIZE), **rows(np.arange(SIZE)[::-1]))
    writer.write(np.arange(SIZE), **rows(np.arange(SIZE)))
    assert writer.n_recorded == SIZE
    assert_true_content(writer.finish(forwards=SIZE))


def test_no_rows_are_fine(writer):
    empty = np.empty(0, dtype=np.int64)
    writer.write(empty, **rows(empty))
    assert writer.n_recorded == 0


def test_recorded_follows_and_is_read_only(writer):
    recorded = writer.recorded
    assert recorded.dtype == bool
    assert recorded.shape == (SIZE,)
    writer.write([5, 2], **rows([5, 2]))
    assert np.flatnonzero(recorded).tolist() == [2, 5]
    assert writer.n_recorded == 2
    with pytest.raises(ValueError, match="read-only"):
        recorded[0] = True


def test_the_callers_index_may_be_reused(tmp_path, writer):
    index = np.array([2])
    writer.write(index, **rows(index))
    index[0] = 5
    writer.flush()
    assert np.flatnonzero(make_writer(tmp_path / "a").recorded).tolist() == [2]


@pytest.mark.parametrize("name", ["correct", "features"])
def test_a_missing_column_is_refused(writer, name):
    values = rows([0])
    del values[name]
    with pytest.raises(
        ValueError, match=r"`write` must get the columns \['correct', .* got .* declare others"
    ):
        writer.write([0], **values)


def test_an_undeclared_column_is_refused(writer):
    with pytest.raises(ValueError, match=r"got .*'extra'.* declare others in `columns`"):
        writer.write([0], **rows([0]), extra=[1])


@pytest.mark.parametrize("index", [[-1], [SIZE], [0, 99]])
def test_indices_out_of_range_are_refused(writer, index):
    with pytest.raises(ValueError, match=rf"`index` must be in 0 \.\. 6, got {index[-1]}"):
        writer.write(index, **rows(index))


@pytest.mark.parametrize("index", [[0.0], [True], ["0"]])
def test_indices_of_another_kind_are_refused(writer, index):
    with pytest.raises(TypeError, match="`index` must be int64, got"):
        writer.write(index, **rows([0]))


@pytest.mark.parametrize("index", [0, [[0]]])
def test_indices_of_another_shape_are_refused(writer, index):
    with pytest.raises(ValueError, match=r"`index` must have shape \(R,\), got"):
        writer.write(index, **rows([0]))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("loss", [0.0, np.nan], ValueError, r"`loss` of pool index 6 is nan, but must be finite"),
        ("correct", [1, 0], TypeError, "`correct` must be bool, got int64"),
        ("loss", [0.0], ValueError, r"`loss` must have shape \(2,\), got \(1,\)"),
        (
            "features",
            np.zeros((2, 3), np.float16),
            ValueError,
            r"`features` must have shape \(2, 2\), got \(2, 3\)",
        ),
        ("label", [0.5, 0.5], TypeError, "`label` must be int64, got float64"),
    ],
)
def test_a_refused_write_stores_nothing(tmp_path, writer, name, value, error, message):
    writer.write([3, 6], **rows([0, 0]))
    with pytest.raises(error, match=message):
        writer.write([3, 6], **(rows([5, 5]) | {name: value}))
    writer.write([0, 1, 2, 4, 5], **rows([0, 0, 0, 0, 0]))
    ledger = writer.finish(forwards=0)
    np.testing.assert_array_equal(ledger.column("features"), np.zeros((SIZE, 2)))
    assert ledger.correct.all()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sets(st.integers(0, SIZE - 1), min_size=1), max_size=6), st.data())
def test_an_abandoned_recording_goes_on_from_its_last_flush(tmp_path_factory, batches, data):
    path = tmp_path_factory.mktemp("ledger") / "a"
    writer, flushed = make_writer(path), set()
    for batch in batches:
        writer.write(sorted(batch), **rows(sorted(batch)))
        if data.draw(st.booleans()):
            writer.flush()
            flushed = set(np.flatnonzero(writer.recorded).tolist())
        if data.draw(st.booleans()):
            writer = make_writer(path)
            assert set(np.flatnonzero(writer.recorded).tolist()) == flushed
    missing = np.flatnonzero(~writer.recorded)
    writer.write(missing, **rows(missing))
    assert_true_content(writer.finish(forwards=SIZE))


def test_a_flush_brings_the_columns_down_before_the_mask(writer, monkeypatch):
    order = []
    flush = np.memmap.flush

    def logged(array):
        order.append((array.filename.name, bool(array.view(np.uint8).any())))
        flush(array)

    monkeypatch.setattr(np.memmap, "flush", logged)
    writer.write([2], **rows([2]))
    writer.flush()
    assert [name for name, _ in order][-1] == "recorded.npy"
    assert {name for name, _ in order[:-1]} == {
        "correct.npy",
        "loss.npy",
        "label.npy",
        "features.npy",
        "genre.npy",
    }
    writer.flush()
    assert len(order) == 6  # nothing new, nothing to do


def test_the_header_is_written_after_the_columns_are_down(writer, monkeypatch):
    order = []
    flush, replace = np.memmap.flush, pathlib.Path.replace
    monkeypatch.setattr(np.memmap, "flush", lambda array: (order.append(array.filename.stem), flush(array)))
    monkeypatch.setattr(pathlib.Path, "replace", lambda *args: (order.append("header"), replace(*args)))
    writer.write(np.arange(SIZE), **rows(np.arange(SIZE)))
    writer.finish(forwards=0)
    assert order == ["correct", "loss", "label", "features", "genre", "recorded", "header"]


def test_rows_become_safe_without_a_flush_in_time(tmp_path, writer, monkeypatch):
    writer.write([2], **rows([2]))
    assert make_writer(tmp_path / "a").n_recorded == 0
    monkeypatch.setattr("lightning_mixcd.ledger.writer._FLUSH_SECONDS", -1.0)
    writer.write([3], **rows([3]))
    assert make_writer(tmp_path / "a").n_recorded == 2


def test_rows_become_safe_without_a_flush_once_they_are_many(tmp_path, writer, monkeypatch):
    monkeypatch.setattr("lightning_mixcd.ledger.writer._FLUSH_ROWS", 2)
    for index in ([4, 1], [6], [0]):
        writer.write(index, **rows(index))
    assert np.flatnonzero(make_writer(tmp_path / "a").recorded).tolist() == [1, 4, 6]


def test_missing_rows_are_counted_and_named(writer):
    writer.write([3], **rows([3]))
    with pytest.raises(
        LedgerError, match=r"must have all 7 rows, got 1: 6 are missing, .*index 0, 1, 2, 4, 5\. Write"
    ):
        writer.finish(forwards=0)
    writer.write([0, 1, 2, 4, 5, 6], **rows([0, 1, 2, 4, 5, 6]))
    assert_true_content(writer.finish(forwards=0))


def test_forwards_must_not_be_negative(writer):
    writer.write(np.arange(SIZE), **rows(np.arange(SIZE)))
    with pytest.raises(ValueError, match="`forwards` must be at least 0, got -1"):
        writer.finish(forwards=-1)
    assert writer.finish(forwards=12).forwards == 12


@pytest.mark.parametrize("call", [lambda w: w.write([0], **rows([0])), lambda w: w.finish(forwards=0)])
def test_a_finished_writer_refuses_more(writer, call):
    writer.write(np.arange(SIZE), **rows(np.arange(SIZE)))
    writer.finish(forwards=0)
    writer.flush()
    with pytest.raises(LedgerError, match=r"is finished and must not change. Read it with `Ledger\.open`"):
        call(writer)


def test_only_the_ledger_stays(tmp_path):
    record(tmp_path / "a")
    names = {"header.json", "correct.npy", "loss.npy", "label.npy", "features.npy", "genre.npy"}
    assert {file.name for file in (tmp_path / "a").iterdir()} == names


def test_a_model_known_at_the_end_replaces_that_of_the_start(tmp_path):
    trained = nn.Linear(1, 3)
    for number, start in enumerate([None, fingerprint_model(base_model())]):
        writer = make_writer(tmp_path / str(number), model=start)
        writer.write(np.arange(SIZE), **rows(np.arange(SIZE)))
        ledger = writer.finish(model=fingerprint_model(trained), forwards=0)
        ledger.verify_model(trained)
        with pytest.raises(LedgerError, match="other weights"):
            ledger.verify_model(base_model())


def test_wide_columns_are_never_held_in_memory(tmp_path):
    tracemalloc.start()
    writer = LedgerWriter(
        tmp_path / "a", 1000, columns={"features": ("float16", (5000,))}, pool=None, model=None
    )
    for start in range(0, 1000, 100):
        index = np.arange(start, start + 100)
        features = np.full((100, 5000), start, np.float16)
        writer.write(index, correct=index > 0, loss=np.zeros(100), features=features)
    ledger = writer.finish(forwards=1000)
    resident = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert resident < ledger.column("features").nbytes / 2
    assert ledger.column("features")[::100, 7].tolist() == list(range(0, 1000, 100))


BASIS = np.eye(2, 5, dtype=np.float32)


def test_basis_of_a_column_stays_with_it(tmp_path):
    ledger = record(tmp_path / "a", bases={"features": BASIS})
    (ledger.with_columns(more=range(SIZE)).with_all_correct()).save(tmp_path / "b")
    for found in (
        Ledger.open(tmp_path / "a"),
        Ledger.open(tmp_path / "b"),
        copy.deepcopy(ledger),
    ):
        assert np.array_equal(found.basis("features"), BASIS)
        assert found.columns[:5] == ("correct", "loss", "label", "features", "genre")
        assert found.basis("label") is None
    with pytest.raises(LedgerError, match="`name` must be a column"):
        ledger.column("features.basis")


def test_basis_that_was_begun_with_stays(tmp_path):
    writer = make_writer(tmp_path / "a", bases={"features": BASIS})
    writer.write([0], **rows([0]))
    writer.flush()
    writer = make_writer(tmp_path / "a", bases={"features": -BASIS})
    assert np.array_equal(writer.basis("features"), BASIS)
    with pytest.raises(LedgerError, match=r"features float16 \(N, 2\) for 5"):
        make_writer(tmp_path / "a")


@pytest.mark.parametrize("bases", [{"features": BASIS[:1]}, {"features": BASIS[0]}, {"other": BASIS}])
def test_basis_must_fit_its_column(bases, tmp_path):
    with pytest.raises(ValueError, match="`bases` must have k vectors for a column of k numbers"):
        make_writer(tmp_path / "a", bases=bases)


def test_damaged_basis_is_named(tmp_path):
    record(tmp_path / "a", bases={"features": BASIS})
    np.save(tmp_path / "a" / "features.basis.npy", -BASIS)
    with pytest.raises(LedgerError, match=r"features\.basis\.npy` is damaged"):
        Ledger.open(tmp_path / "a")
    (tmp_path / "a" / "features.basis.npy").unlink()
    with pytest.raises(LedgerError, match=r"features\.basis\.npy` is damaged: the file is missing"):
        Ledger.open(tmp_path / "a", verify=False)
