"""How methods look, in every figure alike."""

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_mixcd.report.tables import ORACLE, PLAIN, Row

__all__ = ["Style", "chosen_methods", "short", "styles"]

# Okabe and Ito (2008), told apart with any colour vision; without their yellow, which is lost on white.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX*<>h"
DASHES = ("-", "--", "-.", ":")
MOST = 10  # methods that a page shows at first
BEST = 5
MAIN = "mixcd"


@dataclass(frozen=True)
class Style:
    """The look of one method.

    Args:
        color: Of its marks and lines.
        marker: Shape of its marks, as Matplotlib names it.
        dash: Kind of its lines, as Matplotlib names it.
    """

    color: str
    marker: str
    dash: str


def styles(names: Sequence[str]) -> dict[str, Style]:
    """Give each method a look of its own; up to 308 differ, and neighbours in colour, marker and dash.

    Args:
        names: The methods.

    Returns:
        Their styles, in the same order.

    Example:
        >>> [style.marker for style in styles(["uniform", "mixcd"]).values()]
        ['o', 's']
    """
    return {
        name: Style(COLORS[k % len(COLORS)], MARKERS[k % len(MARKERS)], DASHES[k % len(DASHES)])
        for k, name in enumerate(names)
    }


def chosen_methods(rows: Sequence[Row], reference: str) -> list[str]:
    """Choose what a page shows at first: all of a few methods, else a handful.

    Args:
        rows: The compared methods.
        reference: The method compared with.

    Returns:
        The reference, plain finetuning, mix-cd, the best oracle and the best others, by mean accuracy
        over both tasks at their best setting.
    """
    score = {row.name: 0.0 for row in rows}
    for row in rows:
        score[row.name] = max(score[row.name], row.prior + row.new)
    ranked = sorted(score, key=lambda name: (-score[name], name))
    fixed = [name for name in dict.fromkeys((reference, PLAIN, MAIN)) if name in score]
    oracles = [name for name in ranked if name.startswith(ORACLE)]
    others = [name for name in ranked if name not in fixed and name not in oracles]
    if len(score) <= MOST:
        return [*fixed, *oracles, *others]
    return [*fixed, *oracles[:1], *others[:BEST]]


def short(text: str, most: int = 36) -> str:
    """Cut a long name in its middle and replace what no figure can hold.

    Args:
        text: The name.
        most: Characters that are left.

    Returns:
        The name, or its start and end.

    Example:
        >>> short("a_method_with_a_very_long_name", 12)
        'a_meth…_name'
    """
    plain = "".join(letter if letter.isprintable() else "�" for letter in text)
    return plain if len(plain) <= most else f"{plain[: most // 2]}…{plain[len(plain) - (most - 1) // 2 :]}"
