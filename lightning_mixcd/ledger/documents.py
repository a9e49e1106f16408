"""JSON files that are written whole or not at all, and carry their own checksum."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any, TypeAlias

from lightning_mixcd.errors import LedgerError

__all__ = ["SCHEMA", "Document", "checksum_file", "damage", "read_document", "sync_folder", "write_document"]

Document: TypeAlias = dict[str, Any]

SCHEMA = 1
_CHUNK_BYTES = 1 << 20


def write_document(path: Path, content: Document) -> None:
    """Write a JSON file atomically: after a crash there is the old file or the new one, never half of one.

    Args:
        path: Where to; its folder exists.
        content: JSON-able; `schema` and `checksum` are added.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_document(Path(folder) / "header.json", {"size": 3})
        ...     read_document(Path(folder) / "header.json")["size"]
        3
    """
    content = {"schema": SCHEMA, **content}
    text = json.dumps({**content, "checksum": _checksum(content)}, indent=1, allow_nan=False)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def read_document(path: Path) -> Document:
    """Read a file of `write_document`.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        LedgerError: If it is damaged, or written by a release with another schema.
    """
    try:
        content = json.loads(path.read_bytes())
        schema = content.pop("schema")
        checksum = content.pop("checksum")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LedgerError(damage(path, "it is not the JSON that was written")) from error
    if schema != SCHEMA:
        raise LedgerError(
            f"`{path}` must be of schema {SCHEMA}, got {schema!r}. "
            "Install the release of lightning-mixcd that wrote it, or record the ledger again."
        )
    # A flipped digit is still good JSON; without this it would pass as another size or count.
    if checksum != _checksum({"schema": schema, **content}):
        raise LedgerError(damage(path, "its content does not match its checksum"))
    return dict(content)


def checksum_file(path: Path) -> str:
    """Sum up a file of any size in a fixed amount of memory.

    Args:
        path: The file.

    Returns:
        SHA-256, hexadecimal.
    """
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Make renames and deletions in a folder outlast a power cut.

    Args:
        path: The folder.
    """
    # Windows cannot open folders, and needs no such call.
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage(path: Path, what: str) -> str:
    """Word the error for a file that is not as it was written.

    Args:
        path: The file.
        what: What is wrong with it.

    Returns:
        Text for a `LedgerError`.
    """
    return f"`{path}` is damaged: {what}. Restore it from a copy, or delete the folder and record again."


def _checksum(content: Document) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
