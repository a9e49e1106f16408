"""Every example runs to its end, as a user would start it."""

from pathlib import Path

import pytest

from tests.processes import run_script

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPTS = sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("*/app.py")])
SECONDS = 120


def test_examples_are_found():
    assert SCRIPTS


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.relative_to(EXAMPLES)))
def test_example_runs(script: Path, tmp_path: Path):
    done = run_script(script, folder=tmp_path, seconds=SECONDS)
    assert done.returncode == 0, f"{script.name} ends with {done.returncode}:\n{done.stderr[-4000:]}"
