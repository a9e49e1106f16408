"""Every code block of the README and the documentation runs, or says above itself why it does not."""

import re
import shlex
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<info>[^\n`]+)\n(?P<body>.*?)^(?P=indent)```\s*$", re.MULTILINE | re.DOTALL
)
REASON = re.compile(r"\s*<!--\s*\S.*-->\s*")
SHELLS = {"bash", "console", "sh", "shell"}
SHELL_OPERATORS = {"&&", "||", ";", "|", "&"}


@dataclass(frozen=True)
class Block:
    """One fenced block; `line` is that of its first line of code."""

    path: Path
    line: int
    info: tuple[str, ...]
    body: str
    line_above: str

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


def blocks(path: Path, text: str) -> list[Block]:
    """The fenced blocks of a page that name a language."""
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        info = tuple(match["info"].lower().split())
        above = before.rstrip("\n").rpartition("\n")[2]
        found.append(Block(path, before.count("\n") + 2, info, textwrap.dedent(match["body"]), above))
    return found


def pages() -> list[Path]:
    """The README and the documentation, without the design notes, which quote code that was rejected."""
    docs = ROOT / "docs"
    found = [*ROOT.glob("README.md"), *sorted(docs.rglob("*.md"))]
    return [path.relative_to(ROOT) for path in found if docs / "design" not in path.parents]


BLOCKS = {path: blocks(path, (ROOT / path).read_text(encoding="utf-8")) for path in pages()}
PYTHON_PAGES = [path for path in BLOCKS if any(block.info[0] == "python" for block in BLOCKS[path])]
SHELL_BLOCKS = [block for page in BLOCKS.values() for block in page if block.info[0] in SHELLS]


def run_page(page: list[Block]) -> None:
    """Run the Python blocks of one page in order, in one namespace."""
    namespace = {"__name__": "__main__"}
    for block in page:
        if block.info[0] != "python" or "no-run" in block.info:
            continue
        source = "\n" * (block.line - 1) + block.body
        try:
            exec(compile(source, str(block.path), "exec"), namespace)  # noqa: S102
        except Exception as error:
            message = f"{block.place}: this code block fails with {type(error).__name__}: {error}"
            raise AssertionError(message) from error


def complaint_about_label(block: Block) -> str | None:
    """What is wrong with the language that a block names, where that would keep it from being run."""
    if block.info[0] != "python" and re.search(r"\b(py|python3?|pycon)\b", block.info[0]):
        return f"{block.place}: write ```python instead of ```{block.info[0]}, so that the block is run"
    if "no-run" in block.info and not REASON.fullmatch(block.line_above):
        return f"{block.place}: put <!-- the reason --> in the line above a `no-run` block"
    return None


def commands(line: str) -> list[list[str]]:
    """The words of each command in a line of shell, comments and assignments left out."""
    try:
        words = shlex.split(line.removeprefix("$ "), comments=True)
    except ValueError:  # a quotation that goes over several lines
        words = line.split()
    found: list[list[str]] = [[]]
    for word in words:
        bare = word.removesuffix(";")
        if bare and bare not in SHELL_OPERATORS and not re.match(r"\w+=", bare):
            found[-1].append(bare)
        if bare != word or bare in SHELL_OPERATORS:
            found.append([])
    return [command for command in found if command]


def unknown_commands(block: Block, scripts: set[str], targets: set[str]) -> list[str]:
    """Our own console scripts and make targets that a block names and that do not exist."""
    found = []
    for line in block.body.replace("\\\n", " ").splitlines():
        for words in commands(line):
            program = Path(words[0]).name
            if program.startswith("mixcd-") and program not in scripts:
                found.append(f"{block.place}: `{program}` is not among the scripts in pyproject.toml")
            elif program == "make":
                asked = {word for word in words[1:] if not word.startswith("-")}
                found += [f"{block.place}: the Makefile has no `{name}`" for name in sorted(asked - targets)]
    return found


# What `peft` calls has another name in release 5 of `transformers`.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
@pytest.mark.parametrize("path", PYTHON_PAGES, ids=str)
def test_python_blocks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["page.py"])
    run_page(BLOCKS[path])


@pytest.mark.parametrize("path", BLOCKS, ids=str)
def test_no_python_block_escapes(path: Path):
    assert not (found := [problem for block in BLOCKS[path] if (problem := complaint_about_label(block))]), (
        found
    )


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=lambda block: block.place)
def test_shell_blocks_name_existing_commands(block: Block):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    scripts = set(re.findall(r"^(mixcd-[\w-]+) *=", project, re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert not (found := unknown_commands(block, scripts, targets)), found


PAGE = """\
Some text.

```python
numbers = [1]
```

- A list

    ```python title="again.py"
    numbers.append(2)

    raise KeyError(numbers)
    ```

```python no-run
print("never")
```

<!-- needs eight GPUs -->
```python no-run
print("never")
```

```pycon
>>> 1
```

```bash
make test  # make nothing else
PYTHON=python3.11 make tset && .venv/bin/mixcd-train \\
  name="two words"; mixcd-trian
```
"""


@pytest.fixture
def page() -> list[Block]:
    return blocks(Path("page.md"), PAGE)


def test_blocks_share_a_namespace_and_failures_name_their_place(page: list[Block]):
    with pytest.raises(AssertionError, match=r"^page.md:10: .* KeyError: \[1, 2\]") as caught:
        run_page(page)
    assert caught.value.__cause__.__traceback__.tb_next.tb_lineno == 12


def test_labels_that_hide_a_block_are_found(page: list[Block]):
    places = [problem.split(": ")[0] for block in page if (problem := complaint_about_label(block))]
    assert places == ["page.md:16", "page.md:25"]


def test_unknown_commands_are_found(page: list[Block]):
    found = unknown_commands(page[-1], scripts={"mixcd-train"}, targets={"test"})
    assert [problem.split(": ", 1)[1] for problem in found] == [
        "the Makefile has no `tset`",
        "`mixcd-trian` is not among the scripts in pyproject.toml",
    ]
