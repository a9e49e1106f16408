"""Every message that the troubleshooting page quotes is one that the library has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/troubleshooting.md"
QUOTES = re.findall(r"(?<!`)`` (.+?) ``(?!`)", PAGE.read_text(encoding="utf-8"))
VALUE = "…"


def texts() -> list[str]:
    """All texts in the package, with `VALUE` for what is filled in at run time."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "lightning_mixcd").rglob("*.py")]
    return [text(node) for tree in trees for node in ast.walk(tree) if text(node)]


def text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(text(part) or VALUE for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


TEXTS = texts()


def test_the_page_quotes_messages():
    assert len(QUOTES) > 40


@pytest.mark.parametrize("quote", QUOTES)
def test_message_exists(quote: str):
    parts = ".*".join(re.escape(part) for part in quote.split(VALUE))
    assert any(re.search(parts, found, re.DOTALL) for found in TEXTS), f"no message holds: {quote}"
