"""Folders under recording: every state a crash can leave is recovered from or refused in words."""

import errno
import os
import shutil

import numpy as np
import pytest
from torch import nn

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger, fingerprint_model, fingerprint_pool
from lightning_mixcd.ledger.recording import count_recorded
from tests.ledger.cases import POOL, SIZE, assert_true_content, make_writer, record, rows


def write_some(path, index=(4, 1)):
    writer = make_writer(path)
    writer.write(list(index), **rows(index))
    writer.flush()
    return writer


def complete(path):
    writer = make_writer(path)
    missing = np.flatnonzero(~writer.recorded)
    writer.write(missing, **rows(missing))
    return writer.finish(forwards=SIZE)


def full_disk(monkeypatch, after=0):
    """Let the disk fill up after so many files."""
    real, calls = os.posix_fallocate, []

    def fallocate(*args):
        calls.append(args)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)


def test_missing_parents_are_made(tmp_path):
    assert_true_content(record(tmp_path / "deep" / "er" / "a"))


def test_an_empty_folder_is_fine(tmp_path):
    assert_true_content(record(tmp_path))


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "loss.npy").write_text("precious")
    with pytest.raises(
        LedgerError, match=r"must be new, empty or an interrupted recording, got .* \['loss.npy'\]"
    ):
        make_writer(tmp_path)
    assert (tmp_path / "loss.npy").read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "a").write_text("precious")
    with pytest.raises(LedgerError, match="`path` must be a folder, got the file"):
        make_writer(tmp_path / "a")


def test_a_finished_ledger_is_not_overwritten(tmp_path):
    record(tmp_path / "a")
    with pytest.raises(
        LedgerError, match=r"must not hold a finished ledger.*Ledger\.open.*or delete the folder"
    ):
        make_writer(tmp_path / "a")
    assert_true_content(Ledger.open(tmp_path / "a"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": 6, "pool": fingerprint_pool(POOL[:6])}, "size: 7 vs 6; pool: size: 7 vs 6"),
        ({"columns": {"label": "int64"}}, "columns: .*genre <U6.* vs .*label int64"),
        ({"pool": fingerprint_pool(POOL[::-1])}, "pool: content: 6 of 7 probed samples differ"),
        ({"model": fingerprint_model(nn.Linear(1, 4))}, "model: other architecture"),
        ({"model": None}, "model: a fingerprint vs no fingerprint"),
    ],
)
def test_another_recording_is_refused_and_kept(tmp_path, changes, expected):
    write_some(tmp_path / "a")
    with pytest.raises(
        LedgerError, match=rf"is of something else \({expected}.*delete the folder to start afresh"
    ):
        make_writer(tmp_path / "a", **changes)
    assert make_writer(tmp_path / "a").n_recorded == 2


def test_progress_is_counted(tmp_path):
    assert count_recorded(tmp_path / "a") is None
    writer = make_writer(tmp_path / "a")
    assert count_recorded(tmp_path / "a") == (0, SIZE)
    writer.write([4, 1], **rows([4, 1]))
    assert count_recorded(tmp_path / "a") == (0, SIZE)
    writer.flush()
    assert count_recorded(tmp_path / "a") == (2, SIZE)


@pytest.mark.parametrize("after", range(6))
def test_a_full_disk_at_the_start_gives_its_space_back(tmp_path, monkeypatch, after):
    with monkeypatch.context() as patch:
        full_disk(patch, after)
        # correct 1 + loss 4 + label 8 + features 2 x 2 + genre 6 x 4 + mask 1
        with pytest.raises(
            OSError, match=f"No space left on device: recording needs {SIZE * 42} bytes"
        ) as caught:
            make_writer(tmp_path / "a")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(tmp_path / "a")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"partial.json", "recording.lock"}
    assert count_recorded(tmp_path / "a") == (0, SIZE)
    assert_true_content(complete(tmp_path / "a"))


def test_after_a_full_disk_less_may_be_recorded(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        full_disk(patch)
        with pytest.raises(OSError, match="No space left"):
            make_writer(tmp_path / "a")
    writer = make_writer(tmp_path / "a", columns={})
    writer.write(np.arange(SIZE), correct=rows(np.arange(SIZE))["correct"], loss=np.zeros(SIZE))
    assert writer.finish(forwards=0).columns == ("correct", "loss")
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"header.json", "correct.npy", "loss.npy"}


def test_a_crash_at_the_start_leaves_no_litter_behind(tmp_path, monkeypatch):
    def die(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lightning_mixcd.ledger.recording.open_array", die)
        with pytest.raises(KeyboardInterrupt):
            make_writer(tmp_path / "a")
    assert (tmp_path / "a" / "features.npy").exists()
    make_writer(tmp_path / "a", columns={})
    names = {file.name for file in (tmp_path / "a").iterdir()}
    assert names == {"partial.json", "recorded.npy", "recording.lock", "correct.npy", "loss.npy"}


def test_a_full_disk_elsewhere_does_no_harm_to_a_recording_under_way(tmp_path, monkeypatch):
    write_some(tmp_path / "a")
    full_disk(monkeypatch)
    assert_true_content(complete(tmp_path / "a"))


def crash_states(path):
    """Copy the folder after each file operation of a whole recording."""
    states = []

    def snapshot(name, real):
        def wrapped(*args, **kwargs):
            result = real(*args, **kwargs)
            target = path.parent / f"state{len(states)}-{name}"
            if path.exists():
                shutil.copytree(path, target)
                states.append(target)
            return result

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "unlink", "mkdir"):
            patch.setattr(f"pathlib.Path.{name}", snapshot(name, getattr(type(path), name)))
        patch.setattr(os, "posix_fallocate", snapshot("allocate", os.posix_fallocate))
        patch.setattr(os, "fsync", snapshot("sync", os.fsync))
        patch.setattr(np.memmap, "flush", snapshot("flush", np.memmap.flush))
        writer = write_some(path)
        writer.write([0, 2, 3, 5, 6], **rows([0, 2, 3, 5, 6]))
        writer.finish(forwards=SIZE)
    return states


def test_every_state_a_crash_can_leave_is_recovered_from(tmp_path):
    states = crash_states(tmp_path / "a")
    assert len(states) > 20
    for state in states:
        if (state / "header.json").exists():
            assert_true_content(Ledger.open(state))
        else:
            assert_true_content(complete(state))


@pytest.mark.parametrize("flip", [1, 2, 0x80, 0xFF])
def test_a_damaged_mask_never_claims_a_row(tmp_path, flip):
    write_some(tmp_path / "a", index=[4, 1])
    mask = np.load(tmp_path / "a" / "recorded.npy", mmap_mode="r+").view(np.uint8)
    mask ^= flip
    mask._mmap.flush()
    assert not make_writer(tmp_path / "a").recorded[[0, 2, 3, 5, 6]].any()
    assert_true_content(complete(tmp_path / "a"))


@pytest.mark.parametrize("name", ["loss.npy", "recorded.npy", "partial.json"])
def test_truncated_files_are_named(tmp_path, name):
    write_some(tmp_path / "a")
    size = (tmp_path / "a" / name).stat().st_size
    os.truncate(tmp_path / "a" / name, size - 1)
    with pytest.raises(LedgerError, match=f"{name}` is damaged: .* delete the folder and record again"):
        make_writer(tmp_path / "a")
    assert (tmp_path / "a" / name).stat().st_size == size - 1
