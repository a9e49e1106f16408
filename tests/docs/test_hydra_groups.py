from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/hydra.md").read_text()
GROUPS = [
    "adapter",
    "estimator",
    "logger",
    "partition",
    "penalty",
    "schedule",
    "solver",
    "stages",
    "strategy",
    "trainer",
    "weights",
]


@pytest.mark.parametrize("group", GROUPS)
def test_table_of_groups_lists_every_option(group):
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{group}` |")]
    options = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))

    assert options
    assert [option for option in options if f"`{option}`" not in row] == []
