"""Files that are there whole or not at all, and where they are."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["files_named", "replacing", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file aside and move it into place, so that a kill never leaves a part of it under its name.

    Args:
        path: The file; replaced if it exists.

    Yields:
        Where to write.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "table.csv"
        >>> with replacing(path) as aside:
        ...     _ = aside.write_text("a,b")
        >>> path.read_text()
        'a,b'
    """
    # The ending stays: it says what kind of picture is drawn.
    aside = path.with_name(f"{path.stem}.part{path.suffix}")
    yield aside
    aside.replace(path)


def write_text(path: Path, text: str) -> None:
    """Write a text file that is there whole or not at all.

    Args:
        path: The file; replaced if it exists.
        text: What is in it.
    """
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def files_named(folder: Path, name: str) -> list[Path]:
    """Find all files of a name below a folder, also in folders that links lead to.

    Args:
        folder: The folder.
        name: The name; a folder that has it is returned too.

    Returns:
        Their paths, in order; of folders that several ways lead to, one.
    """
    found, seen = [], set[str]()
    for at, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(at)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort(key=lambda below: ((Path(at) / below).is_symlink(), below))
        if name in files or name in folders:
            found.append(Path(at, name))
    return sorted(found)
