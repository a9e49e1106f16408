"""The comparison as text, column by column, and as values."""

from collections.abc import Mapping, Sequence

from lightning_mixcd.report.intervals import Interval, in_columns
from lightning_mixcd.report.picture import Value
from lightning_mixcd.report.tables import Row

__all__ = ["columns", "markdown", "values"]

INTERVALS = ("seconds", "prior_gain", "new_gain", "gap_closed", "matched_gain", "matched_gap_closed")


def columns(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Write a comparison for people.

    Args:
        rows: The compared methods.

    Returns:
        Texts by column; without columns that say nothing, or the same of all.
    """
    found = {
        "method": [row.name for row in rows],
        "mix ratio": [f"{row.setting.mix_ratio:g}" for row in rows],
        "weight": _varying([row.setting.rehearsal_weight for row in rows]),
        "alpha": _varying([row.setting.alpha for row in rows]),
        "seeds": [f"{row.n}" for row in rows],
        "prior": [_percent(row.prior) for row in rows],
        "new": [_percent(row.new) for row in rows],
        "compute units": [f"{row.compute_units:,.0f}" for row in rows],
        "steps": [f"{row.steps:,.0f}{'*' * row.exhausted}" for row in rows],
        "time": [_written(row.seconds, ".2f") for row in rows],
        "trained": _varying([row.trainable_parameters for row in rows], ",.0f"),
        "active": _varying([row.active_parameters for row in rows], ",.0f"),
        "damaged": [_percent(row.damaged_share) for row in rows],
        "pairs": _pairs(rows),
        "prior gain": [str(row.prior_gain or "-") for row in rows],
        "new gain": [str(row.new_gain or "-") for row in rows],
        "gap closed": [_written(row.gap_closed, ".0f", 100) for row in rows],
        "gain at equal new": [str(row.matched_gain or "-") for row in rows],
        "gap closed there": [_written(row.matched_gap_closed, ".0f", 100) for row in rows],
    }
    return {head: texts for head, texts in found.items() if {*texts} != {"-"}}


def markdown(texts: Mapping[str, Sequence[str]]) -> str:
    """Write columns as a Markdown table.

    Args:
        texts: Texts by column.

    Returns:
        The table.
    """
    lines = [[*texts], ["---", *["---:"] * (len(texts) - 1)], *zip(*texts.values(), strict=True)]
    # A bar in a name would begin a cell of its own.
    escaped = [[text.replace("|", r"\|") for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def values(row: Row) -> dict[str, Value]:
    """Return everything that is known of a compared method.

    Args:
        row: The method.

    Returns:
        Values by name, intervals as four of them.
    """
    found: dict[str, Value] = {"name": row.name, **row.setting._asdict()}
    for name, value in vars(row).items():
        if name in INTERVALS:
            found |= in_columns(name, value)
        elif name not in {"name", "setting"}:
            found[name] = value
    return found


# Seeds shared with the reference, where a method has others too.
def _pairs(rows: Sequence[Row]) -> list[str]:
    fewer = any(row.prior_gain.n < row.n for row in rows if row.prior_gain)
    return [f"{row.prior_gain.n}" if fewer and row.prior_gain else "-" for row in rows]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _written(ratio: Interval | None, form: str, scale: float = 1.0) -> str:
    return "-" if ratio is None else ratio.written(form, scale=scale)


def _varying(numbers: Sequence[float | None], spec: str = "g") -> list[str]:
    varies = len({*numbers} - {None}) > 1
    return [format(number, spec) if varies and number is not None else "-" for number in numbers]
