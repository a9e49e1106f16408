"""Damaged ledgers: an error in words or the same data; never another exception, never other data."""

import contextlib

import numpy as np
import pytest

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger
from tests.ledger.cases import POOL, SIZE, make_writer, record, rows

FINISHED = ["header.json", "correct.npy", "loss.npy", "features.npy", "genre.npy"]


@pytest.fixture
def path(tmp_path):
    record(tmp_path / "a")
    return tmp_path / "a"


def snapshot(ledger):
    return {name: ledger.column(name).tobytes() for name in ledger.columns}, ledger.forwards, ledger.size


def flipped(content, position, flip):
    return content[:position] + bytes([content[position] ^ flip]) + content[position + 1 :]


def damaged_versions(content):
    """Each byte with all bits or the lowest one flipped, each shorter length, and one longer."""
    for position in range(len(content)):
        for flip in (0xFF, 0x01):
            yield flipped(content, position, flip)
    for length in range(len(content)):
        yield content[:length]
    yield content + b"\0"


def outcomes(file, attempt):
    """Try on every damaged version of a file; collect what each attempt gave, None for a `LedgerError`."""
    content, results, messages = file.read_bytes(), [], set()
    for version in damaged_versions(content):
        file.write_bytes(version)
        try:
            results.append(attempt())
        except LedgerError as error:
            messages.add(str(error))
            results.append(None)
    file.write_bytes(content)
    assert all(f"{file.name}` " in message for message in messages)
    return results


@pytest.mark.parametrize("name", FINISHED)
def test_a_damaged_ledger_is_refused_or_the_same(path, name):
    expected = snapshot(Ledger.open(path))
    results = outcomes(path / name, lambda: snapshot(Ledger.open(path)))
    assert results.count(None) > len(results) / 2
    assert all(result is None or result == expected for result in results)


@pytest.mark.parametrize("name", FINISHED)
def test_without_checksums_a_damaged_ledger_keeps_its_layout(path, name):
    def attempt():
        ledger = Ledger.open(path, verify=False)
        return [(ledger.column(column).dtype, ledger.column(column).shape) for column in ledger.columns]

    expected = attempt()
    assert all(result is None or result == expected for result in outcomes(path / name, attempt))


@pytest.mark.parametrize("name", ["partial.json", "recorded.npy"])
def test_a_damaged_recording_is_refused_or_goes_on(tmp_path, name):
    writer = make_writer(tmp_path / "a")
    writer.write([4, 1], **rows([4, 1]))
    writer.flush()
    file = tmp_path / "a" / name

    def attempt():
        return set(np.flatnonzero(make_writer(tmp_path / "a").recorded).tolist())

    results = outcomes(file, attempt)
    assert all(result is None or result <= {4, 1} for result in results)
    assert None in results


@pytest.mark.parametrize("name", ["correct.npy", "loss.npy", "features.npy"])
def test_columns_of_a_recording_with_a_damaged_layout_are_refused(tmp_path, name):
    make_writer(tmp_path / "a")
    file = tmp_path / "a" / name
    data_start = np.load(file, mmap_mode="r").offset
    content = file.read_bytes()
    for position in range(data_start):
        file.write_bytes(flipped(content, position, 0xFF))
        with contextlib.suppress(LedgerError):
            assert make_writer(tmp_path / "a").n_recorded == 0


def test_missing_files_are_named(path):
    for name in FINISHED[1:]:
        (path / name).rename(path / "elsewhere")
        for verify in (True, False):
            with pytest.raises(LedgerError, match=f"{name}` is damaged: the file is missing"):
                Ledger.open(path, verify=verify)
        (path / "elsewhere").rename(path / name)
    ledger = Ledger.open(path)
    assert ledger.size == SIZE
    ledger.verify_pool(POOL)
