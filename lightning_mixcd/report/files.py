"""Files that are there whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing", "write_text"]


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
