"""Write the table of direct dependencies and their licences into `docs/safety.md`.

Run in an environment with the extra `all`, after a dependency came or went:

    python docs/_licences.py
"""

import re
from importlib.metadata import metadata
from pathlib import Path

import tomllib

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/safety.md"
BEGIN, END = "<!-- licences:begin -->\n", "<!-- licences:end -->\n"
# Extras that nobody needs to use the library, that only gather others, or that `all` is without.
LEFT_OUT = {"all", "dev", "influence", "ray", "test"}


def direct() -> dict[str, list[str]]:
    """Return the extras that bring each direct dependency, by its name; none if it is always there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for extra, requirements in groups.items():
        for requirement in requirements if extra not in LEFT_OUT else ():
            name = re.split(r"[^\w.-]", requirement)[0]
            found.setdefault(name, []).extend([extra] if extra else [])
    return found


def licence(name: str) -> str:
    """Return the licence that an installed distribution states, in the newest field that it fills in."""
    stated = metadata(name)
    classifiers = [c for c in stated.get_all("Classifier") or [] if c.startswith("License ::")]
    fields = (
        stated.get("License-Expression"),
        *(c.rpartition(" :: ")[2] for c in classifiers),
        stated.get("License"),
    )
    return next(field for field in fields if field)


def rows() -> list[tuple[str, ...]]:
    """Return package, extras, version without its local part, and licence."""
    found = []
    for name, extras in direct().items():
        version = metadata(name)["Version"].partition("+")[0]
        found.append((name, ", ".join(f"`{extra}`" for extra in extras) or "always", version, licence(name)))
    return found


def table() -> str:
    """Return the table as Markdown."""
    head = ("package", "extra", "version looked at", "licence")
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, ("---",) * len(head), *rows()))


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}{table()}{END}{after}", encoding="utf-8")
