"""Column files: allocated in full, checked before they are mapped."""

import errno
import os

import numpy as np
import pytest

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.arrays import allocate_array, open_array
from lightning_mixcd.ledger.columns import ColumnSpec

SPEC = ColumnSpec(np.dtype(np.float16), (3,))


def test_allocated_arrays_are_ordinary_npy_files_of_zeros(tmp_path):
    allocate_array(tmp_path / "a.npy", SPEC, 5)
    loaded = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert loaded.dtype == np.float16
    np.testing.assert_array_equal(loaded, np.zeros((5, 3)))


@pytest.mark.parametrize(
    "error", [None, AttributeError(), OSError(errno.EOPNOTSUPP, ""), OSError(errno.EINVAL, "")]
)
def test_space_is_claimed_for_every_byte(tmp_path, monkeypatch, error):
    if error is not None:

        def unsupported(*_):
            raise error

        monkeypatch.setattr(os, "posix_fallocate", unsupported)
    allocate_array(tmp_path / "a.npy", SPEC, 1_000_000)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 6_000_000
    assert not open_array(tmp_path / "a.npy", SPEC, 1_000_000).any()


def test_a_full_disk_shows_at_allocation(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        allocate_array(tmp_path / "a.npy", SPEC, 5)


def test_writes_through_one_map_are_read_through_another(tmp_path):
    allocate_array(tmp_path / "a.npy", SPEC, 5)
    open_array(tmp_path / "a.npy", SPEC, 5, mode="r+")[2] = [1, 2, 3]
    reader = open_array(tmp_path / "a.npy", SPEC, 5)
    assert reader[2].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="read-only"):
        reader[0] = 0


@pytest.mark.parametrize("mode", ["r", "r+"])
@pytest.mark.parametrize("change", [-1, -25, 1])
def test_another_length_is_refused_and_left_alone(tmp_path, mode, change):
    allocate_array(tmp_path / "a.npy", SPEC, 5)
    size = (tmp_path / "a.npy").stat().st_size
    os.truncate(tmp_path / "a.npy", size + change)
    with pytest.raises(
        LedgerError, match=rf"a\.npy` is damaged: it must be {size} bytes long, got {size + change}"
    ):
        open_array(tmp_path / "a.npy", SPEC, 5, mode=mode)
    assert (tmp_path / "a.npy").stat().st_size == size + change


@pytest.mark.parametrize(
    ("array", "found"),
    [
        (np.zeros((5, 3), np.float32), r"float32 \(5, 3\)"),
        (np.zeros((3, 5), np.float16), r"float16 \(3, 5\)"),
        (np.zeros((5, 3), np.float16, order="F"), r"float16 \(5, 3\)"),
        (np.zeros((5, 3), ">f2"), r">f2 \(5, 3\)"),
    ],
)
def test_another_layout_is_refused(tmp_path, array, found):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(LedgerError, match=rf"it must hold float16 \(5, 3\), got {found}"):
        open_array(tmp_path / "a.npy", SPEC, 5)


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x04N.", b"\x93NUMPY\x01\x00\xff\xff", b"x" * 200]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(LedgerError, match=r"a\.npy` is damaged: it is no \.npy file"):
        open_array(tmp_path / "a.npy", SPEC, 5)


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}] * 5, dtype=object), allow_pickle=True)
    with pytest.raises(LedgerError, match="must hold float16"):
        open_array(tmp_path / "a.npy", SPEC, 5)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LedgerError, match=r"a\.npy` is damaged: the file is missing"):
        open_array(tmp_path / "a.npy", SPEC, 5)


def test_errors_of_the_system_pass_through(tmp_path):
    (tmp_path / "a.npy").mkdir()
    with pytest.raises(IsADirectoryError, match=r"a\.npy"):
        open_array(tmp_path / "a.npy", SPEC, 5)
