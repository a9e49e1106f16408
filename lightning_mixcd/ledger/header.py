"""The header of a finished ledger: the file whose presence says that all the others are whole."""

from pathlib import Path
from typing import NamedTuple

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.documents import checksum_file, damage, read_document, write_document
from lightning_mixcd.ledger.plan import BASIS, Plan, plan_from_document, plan_to_document

__all__ = ["HEADER", "Header", "read_header", "verify_columns", "write_header"]

HEADER = "header.json"


class Header(NamedTuple):
    """What a finished ledger says about itself.

    Args:
        plan: Size, columns and fingerprints.
        forwards: Sample-forwards that recording cost.
        checksums: Name of each file, of a column or its basis, to its SHA-256.
    """

    plan: Plan
    forwards: int
    checksums: dict[str, str]


def write_header(path: Path, plan: Plan, forwards: int) -> None:
    """Sum up the column files and write the header.

    Args:
        path: Folder of the ledger; all columns are on disk.
        plan: Size, columns and fingerprints.
        forwards: Sample-forwards that recording cost.
    """
    document = plan_to_document(plan)
    for name, entry in document["columns"].items():
        entry["sha256"] = checksum_file(path / f"{name}.npy")
        if "width" in entry:
            entry["basis_sha256"] = checksum_file(path / f"{name}{BASIS}.npy")
    write_document(path / HEADER, {**document, "forwards": int(forwards)})


def read_header(path: Path) -> Header:
    """Read the header.

    Args:
        path: Folder of the ledger.

    Returns:
        The header.

    Raises:
        LedgerError: If it is damaged or of another schema.
    """
    document = read_document(path / HEADER)
    plan = plan_from_document(document, path / HEADER)
    try:
        columns = document["columns"]
        checksums = {name: str(columns[name]["sha256"]) for name in plan.columns}
        checksums |= {
            f"{name}{BASIS}": str(columns[name]["basis_sha256"])
            for name in columns
            if "width" in columns[name]
        }
        return Header(plan, int(document["forwards"]), checksums)
    except (KeyError, TypeError, ValueError) as error:
        raise LedgerError(damage(path / HEADER, "it does not describe a finished ledger")) from error


def verify_columns(path: Path, header: Header) -> None:
    """Read every column file and compare it with its checksum.

    Args:
        path: Folder of the ledger.
        header: Its header.

    Raises:
        LedgerError: If a file is missing or not as it was written.
    """
    for name, checksum in header.checksums.items():
        file = path / f"{name}.npy"
        if not file.exists():
            raise LedgerError(damage(file, "the file is missing"))
        if checksum_file(file) != checksum:
            raise LedgerError(damage(file, "its content does not match its checksum"))
