"""What holds for the repository as a whole."""

import ast
import importlib
import inspect
import pkgutil
import re
import statistics
import subprocess
from pathlib import Path

import pytest

import lightning_mixcd

ROOT = Path(__file__).parents[1]
PACKAGE = Path(lightning_mixcd.__file__).parent
MODULES = [
    "lightning_mixcd",
    *(module.name for module in pkgutil.walk_packages([str(PACKAGE)], "lightning_mixcd.")),
]
CARD_HEADINGS = ["Idea", "Cost", "Knobs", "Deviations", "Numbers"]
OPEN_POINT = "TO" + "DO"


def texts() -> dict[str, str]:
    """The text files that are or would be committed, by path."""
    # The clone may belong to another user than the one who runs the tests.
    command = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    files = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    contents = {name: (ROOT / name).read_bytes() for name in files}
    return {name: data.decode(errors="replace") for name, data in contents.items() if b"\0" not in data}


def strategies() -> list[type]:
    """The strategies that can be constructed."""
    package = importlib.import_module("lightning_mixcd.strategies")
    exported = [getattr(package, name) for name in package.__all__]
    classes = [item for item in exported if inspect.isclass(item) and issubclass(item, package.Strategy)]
    return [item for item in classes if item is not package.Strategy and not inspect.isabstract(item)]


def body_sizes() -> list[int]:
    """Lines of every function in the package, docstrings left out."""
    sizes = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.body[0]
                documented = ast.get_docstring(node, clean=False) is not None
                docstring = first.end_lineno - first.lineno + 1 if documented else 0
                sizes.append(node.end_lineno - node.lineno + 1 - docstring)
    return sizes


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name: str):
    if name == "lightning_mixcd.influence._ekfac":
        pytest.importorskip("kronfluence")
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    public = [getattr(module, item) for item in getattr(module, "__all__", [])]
    described = [item for item in public if inspect.isclass(item) or inspect.isfunction(item)]
    bare = [
        item.__name__
        for item in described
        if not item.__doc__ or item.__doc__.startswith(f"{item.__name__}(")
    ]
    assert not bare, f"no docstring: {bare}"


def test_every_strategy_has_a_card():
    cards = {
        path.stem.replace("-", "").replace("_", ""): path for path in (ROOT / "docs/strategies").glob("*.md")
    }
    problems = []
    for strategy in strategies():
        if (card := cards.get(strategy.__name__.lower())) is None:
            problems.append(f"docs/strategies has no card for {strategy.__name__}")
            continue
        text = card.read_text(encoding="utf-8")
        missing = [
            heading for heading in CARD_HEADINGS if not re.search(rf"^## {heading}\b", text, re.MULTILINE)
        ]
        problems += [f"{card.name} has no heading `## {heading}`" for heading in missing]
        problems += [f"{card.name} is unfinished"] if OPEN_POINT in text else []
    assert not problems, "\n".join(problems)


def test_changelog_has_this_version():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_no_file_names_a_path_of_one_machine():
    path = re.compile("/(?:work/|farm|home/|root/)")
    assert not [f"{name}: {match[0]}" for name, text in texts().items() if (match := path.search(text))]


def test_open_points_carry_an_issue_number():
    open_point = re.compile(rf"\b{OPEN_POINT}\b(?!\(#\d+\))")
    assert not [name for name, text in texts().items() if open_point.search(text)]


def test_bodies_are_short():
    sizes = sorted(body_sizes())
    assert statistics.median(sizes) <= 8
    assert sizes[round(0.95 * (len(sizes) - 1))] <= 30
    assert sizes[-1] <= 50
