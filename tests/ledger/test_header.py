"""The header of a finished ledger."""

import hashlib
import json

import pytest

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.documents import read_document, write_document
from lightning_mixcd.ledger.header import HEADER, read_header
from tests.ledger.cases import SIZE, record


@pytest.fixture
def path(tmp_path):
    record(tmp_path / "a")
    return tmp_path / "a"


def test_the_header_is_readable_by_other_tools(path):
    header = json.loads((path / HEADER).read_text())
    assert header["schema"] == 1
    assert header["size"] == SIZE
    assert header["forwards"] == SIZE
    assert header["columns"]["features"]["shape"] == [SIZE, 2]
    for name, column in header["columns"].items():
        assert column["sha256"] == hashlib.sha256((path / f"{name}.npy").read_bytes()).hexdigest()


@pytest.mark.parametrize("key", ["forwards", "columns.loss.sha256"])
def test_a_header_without_a_part_is_refused(path, key):
    document = read_document(path / HEADER)
    part = document
    for name in key.split(".")[:-1]:
        part = part[name]
    del part[key.split(".")[-1]]
    write_document(path / HEADER, document)
    with pytest.raises(
        LedgerError, match=r"header\.json` is damaged: it does not describe a finished ledger"
    ):
        read_header(path)
