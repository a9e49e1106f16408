"""Reading ledgers, adding columns, and telling pools and models apart."""

import copy
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger, LedgerWriter, fingerprint_pool
from tests.ledger.cases import POOL, SIZE, assert_true_content, base_model, make_writer, record, rows


@pytest.fixture
def path(tmp_path):
    record(tmp_path / "a")
    return tmp_path / "a"


def in_memory(size=SIZE):
    return Ledger.from_arrays(**rows(np.arange(size)))


def test_what_was_written_is_read(path):
    ledger = Ledger.open(path)
    assert_true_content(ledger)
    assert ledger.size == ledger.forwards == SIZE
    assert ledger.columns == ("correct", "loss", "label", "features", "genre")
    assert ledger.correct is ledger.column("correct")
    assert ledger.loss is ledger.column("loss")


def test_paths_may_be_strings(path):
    assert_true_content(Ledger.open(str(path)))


def mapped(array):
    while array is not None and not isinstance(array, np.memmap):
        array = array.base
    return array is not None


def test_files_are_mapped_and_read_only(path):
    ledger = Ledger.open(path)
    for name in ledger.columns:
        column = ledger.column(name)
        assert type(column) is np.ndarray
        assert mapped(column)
        with pytest.raises(ValueError, match="read-only"):
            column[0] = column[1]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 20).flatmap(
        lambda size: st.tuples(
            hnp.arrays(bool, size),
            hnp.arrays(np.float32, size, elements=st.floats(0, 2.0**100, width=32)),
            hnp.arrays(hnp.scalar_dtypes() | hnp.unicode_string_dtypes(), st.just(size) | st.just((size, 2))),
        )
    )
)
def test_memory_to_disk_and_back(tmp_path_factory, arrays):
    correct, loss, extra = arrays
    path = tmp_path_factory.mktemp("ledger") / "a"
    ledger = Ledger.from_arrays(correct, loss)
    if extra.dtype.kind in "biufSU":
        ledger = ledger.with_columns(extra=extra)
    ledger.save(path)
    opened = Ledger.open(path)
    assert opened.columns == ledger.columns
    for name in ledger.columns:
        np.testing.assert_array_equal(opened.column(name), ledger.column(name), strict=True)


def test_arrays_are_copied_and_checked():
    correct = np.array([True, False])
    ledger = Ledger.from_arrays(correct, [0.5, 1.5])
    correct[:] = False
    assert ledger.correct.tolist() == [True, False]
    assert ledger.loss.dtype == np.float32
    assert ledger.forwards == 0
    with pytest.raises(ValueError, match="read-only"):
        ledger.correct[0] = False


def test_tensors_and_lists_are_arrays_too():
    ledger = Ledger.from_arrays(
        torch.tensor([True, False]),
        torch.tensor([0.5, 1.5]).bfloat16(),
        label=torch.tensor([3, 4]),
        genre=["a", "bc"],
    )
    assert ledger.loss.tolist() == [0.5, 1.5]
    assert ledger.column("label").dtype == np.int64
    assert ledger.column("genre").tolist() == ["a", "bc"]


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        (([1, 0], [0.5, 0.5]), TypeError, "`correct` must be bool, got int64. Convert it to bool"),
        (([True, False], [0.5, np.nan]), ValueError, "`loss` of pool index 1 is nan, but must be finite"),
        (([True, False], [0.5]), ValueError, r"`loss` must have shape \(2,\), got \(1,\)"),
        (([True, False], [[0.5], [0.5]]), ValueError, r"`loss` must have shape \(2,\), got \(2, 1\)"),
        (([[True], [False]], [0.5, 0.5]), ValueError, r"`correct` must have shape \(2,\), got \(2, 1\)"),
        ((True, 0.5), ValueError, r"`correct` must have shape \(1,\), got \(\)"),
        (([], []), ValueError, "`size` must be at least 1, got 0"),
        (([True, False], [1, 0]), TypeError, "`loss` must be float32, got int64"),
    ],
)
def test_wrong_arrays_are_refused(arrays, error, message):
    with pytest.raises(error, match=message):
        Ledger.from_arrays(*arrays)


def test_an_unknown_column_names_those_there_are(path):
    with pytest.raises(
        LedgerError,
        match=r"one of \['correct', .*'genre'\], got 'topic'. Add it with `ledger.with_columns\(topic=...\)`",
    ):
        Ledger.open(path).column("topic")


def test_added_columns_leave_the_original_alone(path):
    ledger = Ledger.open(path)
    wider = ledger.with_columns(source=np.arange(SIZE, dtype=np.int16), logits=torch.zeros(SIZE, 3))
    assert wider.columns == (*ledger.columns, "source", "logits")
    assert wider.column("source").dtype == np.int16
    assert wider.column("logits").shape == (SIZE, 3)
    assert "source" not in ledger.columns
    assert wider.forwards == SIZE
    assert mapped(wider.loss)
    wider.verify_pool(POOL)
    with pytest.raises(LedgerError, match="other architecture"):
        wider.verify_model(nn.Linear(1, 4))


def test_added_columns_are_in_native_byte_order():
    assert in_memory().with_columns(x=np.arange(SIZE, dtype=">i4")).column("x").dtype.isnative


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"x": [1, 2]}, ValueError, r"`x` must have shape \(7,\), got \(2,\)"),
        ({"x": 3}, ValueError, r"`x` must have shape \(7,\), got \(\)"),
        ({"loss": [0.0] * SIZE}, ValueError, r"must have new names, got \['loss'\], which are there"),
        ({"Loss": [0.0] * SIZE}, ValueError, "must differ by more than case"),
        ({"a/b": [0] * SIZE}, ValueError, "must be letters, digits and `_`"),
        ({"x": [None] * SIZE}, TypeError, "`x` must hold numbers, flags or strings, got dtype object"),
        (
            {"x": np.zeros((SIZE, 0))},
            ValueError,
            "must hold numbers, flags or strings of fixed length in rows",
        ),
    ],
)
def test_wrong_columns_are_refused(columns, error, message):
    with pytest.raises(error, match=message):
        in_memory().with_columns(**columns)


def test_saving_keeps_everything(path, tmp_path):
    Ledger.open(path).with_columns(source=np.arange(SIZE)).save(tmp_path / "b")
    saved = Ledger.open(tmp_path / "b")
    assert_true_content(saved)
    assert saved.column("source").tolist() == list(range(SIZE))
    assert saved.forwards == SIZE
    saved.verify_pool(POOL)
    saved.verify_model(base_model())
    with pytest.raises(LedgerError, match="content"):
        saved.verify_pool(POOL[::-1])


def test_saving_goes_by_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_mixcd.ledger.ledger._SAVED_ROWS", 3)
    in_memory().save(tmp_path / "b")
    assert_true_content(Ledger.open(tmp_path / "b"))


def test_saving_does_not_overwrite(path):
    with pytest.raises(LedgerError, match="must not hold a finished ledger"):
        in_memory().save(path)


@pytest.mark.parametrize(
    "clone",
    [copy.copy, copy.deepcopy, lambda ledger: pickle.loads(pickle.dumps(ledger))],  # noqa: S301 - our own
)
def test_clones_are_equal_and_read_only(path, clone):
    cloned = clone(Ledger.open(path))
    assert_true_content(cloned)
    cloned.verify_pool(POOL)
    with pytest.raises(ValueError, match="read-only"):
        cloned.loss[0] = 1


@pytest.mark.parametrize(
    "changed",
    [
        copy.copy,
        copy.deepcopy,
        lambda ledger: pickle.loads(pickle.dumps(ledger)),  # noqa: S301 - our own
        lambda ledger: ledger.with_columns(x=np.zeros(SIZE)),
        Ledger.with_all_correct,
    ],
)
def test_what_it_cost_and_whom_it_trusts_stay_with_a_ledger(path, changed):
    ledger = changed(Ledger.open(path, check_model=False))
    assert ledger.forwards == Ledger.open(path).forwards > 0
    ledger.verify_model(nn.Linear(5, 5))
    with pytest.raises(LedgerError, match="other architecture"):
        changed(Ledger.open(path)).verify_model(nn.Linear(5, 5))


def test_repr_tells_size_and_columns():
    assert (
        repr(Ledger.from_arrays([True], [0.5])) == "Ledger(size=1, columns=('correct', 'loss'), forwards=0)"
    )


@pytest.mark.parametrize(
    "make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")]
)
def test_where_there_is_no_ledger_the_error_says_how_to_get_one(tmp_path, make):
    make(tmp_path / "b")
    with pytest.raises(
        LedgerError, match=r"must be the folder of a ledger .*b`\. Check the path, or record a ledger"
    ):
        Ledger.open(tmp_path / "b")


def test_an_unfinished_ledger_tells_its_progress(tmp_path):
    writer = make_writer(tmp_path / "b")
    writer.write([1, 4, 5], **rows([1, 4, 5]))
    writer.flush()
    with pytest.raises(LedgerError, match="is unfinished: 3 of 7 recorded; run the recording again to go on"):
        Ledger.open(tmp_path / "b")


def test_checksums_are_compared_unless_told_not_to(path):
    column = np.load(path / "label.npy", mmap_mode="r+")
    column[3] += 1
    column.flush()
    with pytest.raises(LedgerError, match=r"label\.npy` is damaged: its content does not match its checksum"):
        Ledger.open(path)
    assert Ledger.open(path, verify=False).column("label")[3] == rows([3])["label"][0] + 1


def test_the_pool_is_verified(path):
    ledger = Ledger.open(path)
    ledger.verify_pool(POOL)
    with pytest.raises(
        LedgerError, match=r"got another \(size: 7 vs 6\)\. Pass that pool, .* or record one for this"
    ):
        ledger.verify_pool(POOL[:6])
    changed = list(POOL)
    changed[2] = (torch.tensor([9.0]), 0)
    with pytest.raises(
        LedgerError, match=r"\(content: 1 of 7 probed samples differ, the first at pool index 2\)"
    ):
        ledger.verify_pool(changed)


def test_without_a_fingerprint_the_size_of_the_pool_is_verified(tmp_path):
    for ledger in (in_memory(), record(tmp_path / "b", pool=None)):
        ledger.verify_pool(POOL[::-1])
        with pytest.raises(LedgerError, match="size: 7 vs 6"):
            ledger.verify_pool(POOL[:6])


def test_the_model_is_verified(path):
    ledger = Ledger.open(path)
    ledger.verify_model(base_model())
    other = base_model()
    other.bias.data[1] += 1e-6
    with pytest.raises(
        LedgerError, match=r"same architecture, other weights: 1 of 2 .*`bias`\. Load the base model"
    ):
        ledger.verify_model(other)
    with pytest.raises(
        LedgerError, match=r"other architecture: `bias` \(3,\) vs \(4,\).*`check_model=False`"
    ):
        ledger.verify_model(nn.Linear(1, 4))


def test_the_model_is_not_verified_where_the_user_or_the_ledger_says_so(path, tmp_path):
    other = nn.Linear(5, 5)
    Ledger.open(path, check_model=False).verify_model(other)
    Ledger.open(path, check_model=False).with_columns(x=np.zeros(SIZE)).verify_model(other)
    in_memory().verify_model(other)
    record(tmp_path / "b", model=None).verify_model(other)


@pytest.mark.slow
def test_a_large_ledger_stays_on_disk(tmp_path):
    """Sixteen bytes a sample on disk, none resident: opening must not read 10^7 rows into memory."""
    size = 10_000_000
    writer = LedgerWriter(tmp_path / "a", size, columns={}, pool=None, model=None)
    for start in range(0, size, 1 << 20):
        index = np.arange(start, min(start + (1 << 20), size))
        writer.write(index, correct=index % 2 == 0, loss=(index % 97).astype(np.float32))
    writer.finish(forwards=size)
    assert sum(file.stat().st_size for file in (tmp_path / "a").iterdir()) < 16 * size
    tracemalloc.start()
    ledger = Ledger.open(tmp_path / "a")
    resident = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert resident < size / 2
    assert ledger.loss[-1] == (size - 1) % 97


def test_a_fingerprint_of_the_pool_may_come_from_anywhere(tmp_path):
    fingerprint = fingerprint_pool(POOL)
    record(
        tmp_path / "b", pool={key: tuple(v) if isinstance(v, list) else v for key, v in fingerprint.items()}
    )
    Ledger.open(tmp_path / "b").verify_pool(POOL)
