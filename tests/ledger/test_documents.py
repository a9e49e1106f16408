"""JSON files: atomic, checked, of a known schema."""

import errno
import hashlib
import json
from pathlib import Path

import pytest

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.documents import checksum_file, damage, read_document, sync_folder, write_document

CONTENT = {"size": 3, "columns": {"loss": [1, None, "ß"]}, "forwards": 12}


def test_round_trip(tmp_path):
    write_document(tmp_path / "a.json", CONTENT)
    assert read_document(tmp_path / "a.json") == CONTENT


def test_no_temporary_file_stays(tmp_path):
    write_document(tmp_path / "a.json", CONTENT)
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_a_crash_before_the_rename_keeps_the_old_content(tmp_path, monkeypatch):
    write_document(tmp_path / "a.json", CONTENT)

    def fail(*_):
        raise OSError(errno.EIO, "pulled the plug")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="pulled the plug"):
        write_document(tmp_path / "a.json", {"size": 4})
    assert read_document(tmp_path / "a.json") == CONTENT


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "{}", '{"schema": 1}', "\xff", "[" * 100_000])
def test_other_json_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text, encoding="latin-1")
    with pytest.raises(LedgerError, match=r"a\.json` is damaged: it is not the JSON .* delete the folder"):
        read_document(tmp_path / "a.json")


def test_a_changed_number_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    write_document(path, CONTENT)
    path.write_text(path.read_text().replace('"forwards": 12', '"forwards": 13'))
    with pytest.raises(LedgerError, match=r"a\.json` is damaged: its content does not match its checksum"):
        read_document(path)


def test_another_schema_is_named(tmp_path):
    path = tmp_path / "a.json"
    write_document(path, CONTENT)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(LedgerError, match=r"must be of schema 1, got 99\. Install the release"):
        read_document(path)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_checksum_is_sha256_of_all_bytes(tmp_path, size):
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    (tmp_path / "a").write_bytes(content)
    assert checksum_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_folders_sync_where_the_system_cannot_open_them(tmp_path, monkeypatch):
    sync_folder(tmp_path)
    monkeypatch.delattr("os.O_DIRECTORY")
    sync_folder(tmp_path)


def test_damage_names_file_fault_and_remedy():
    assert damage(Path("x/loss.npy"), "it is empty") == (
        "`x/loss.npy` is damaged: it is empty. Restore it from a copy, or delete the folder and record again."
    )
