"""The table of licences names every direct dependency, and says what those that are installed say."""

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("tomllib", reason="new in Python 3.11")
SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "docs/_licences.py"))


def test_table_is_current():
    page = SCRIPT["PAGE"].read_text(encoding="utf-8")
    listed = [
        tuple(line.strip("| ").split(" | ")) for line in re.findall(r"^\| [a-z].* \|$", page, re.MULTILINE)
    ]
    listed = [row for row in listed if len(row) == 4 and row[0] != "package"]
    now = SCRIPT["rows"]()
    remedy = "run `python docs/_licences.py`"
    assert [row[:2] for row in listed] == [row[:2] for row in now], remedy
    # Another version may state another licence, which is for its upgrade to look at.
    for was, row in zip(listed, now, strict=True):
        assert was[2] != row[2] or was[3] == row[3], remedy
