"""MkDocs hook: turn formulas into MathML while the site is built, so that pages need no script for them."""

import html
import re

from latex2mathml.converter import convert

FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?P<open>[(\[])(?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_page_content(page_html: str, **_: object) -> str:
    """Replace each formula that Arithmatex marked.

    Args:
        page_html: A page, rendered from Markdown.

    Returns:
        The page with MathML.
    """
    return FORMULA.sub(_to_mathml, page_html)


def _to_mathml(match: re.Match[str]) -> str:
    display = "block" if match["open"] == "[" else "inline"
    return convert(html.unescape(match["latex"]).strip(), display=display)
