"""Every example runs to its end, as a user would start it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/app.py")])
SECONDS = 120


def test_examples_are_found():
    assert SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(EXAMPLES)))
def test_example_runs(script: Path, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, timeout=SECONDS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script.name} ends with {done.returncode}:\n{done.stderr[-4000:]}"
