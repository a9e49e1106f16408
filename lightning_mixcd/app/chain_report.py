"""The part of `mixcd-report` on chains: a table and heat maps of all chains in a folder."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_mixcd.report.chains import ChainRow, compare_chains, read_chains
from lightning_mixcd.report.files import replacing
from lightning_mixcd.report.intervals import Interval
from lightning_mixcd.report.matrix import plot_matrices

__all__ = ["report_chains"]

HEADS = {
    "final": "final",
    "mean": "mean",
    "transfer": "transfer",
    "forgetting": "forgetting",
    "backward_transfer": "backward",
    "forward_transfer": "forward",
}
GAINS = {"final": "final gain", "forgetting": "forgetting change"}


def report_chains(folder: Path, *, reference: str, console: Console) -> bool:
    """Print a table of the chains below a folder, and write it there as CSV and Markdown, with heat maps.

    Args:
        folder: The folder.
        reference: Name of the method to compare with.
        console: Where to print.

    Returns:
        Whether there are chains; without any, nothing is done.
    """
    records = read_chains(folder)
    if not records:
        return False
    rows, tasks = compare_chains(records, reference), records[0].tasks
    columns = _columns(rows)
    table = Table(title=f"{' > '.join(tasks)}: scores and differences to {reference} in %, with 95 % CI")
    for head in columns:
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    lines = [*zip(*columns.values(), strict=True)]
    for line in lines:
        table.add_row(*line)
    console.print(table)
    for path in _write(folder, rows, tasks, [[*columns], *lines]):
        console.print(f"wrote {path}", soft_wrap=True)
    return True


def _write(
    folder: Path, rows: Sequence[ChainRow], tasks: Sequence[str], lines: Sequence[Sequence[str]]
) -> list[Path]:
    written = [folder / "chains.csv", folder / "chains.md", folder / "chains.png"]
    with replacing(written[0]) as aside, aside.open("w", newline="") as file:
        flat = [_flat(row) for row in rows]
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        writer.writerows(flat)
    with replacing(written[1]) as aside:
        ruled = [lines[0], ["---", *["---:"] * (len(lines[0]) - 1)], *lines[1:]]
        aside.write_text("".join(f"| {' | '.join(line)} |\n" for line in ruled), encoding="utf-8")
    matrices = {_title(row, rows): [row.initial, *row.accuracies] for row in rows}
    with replacing(written[2]) as aside:
        plot_matrices(matrices, tasks).savefig(aside, dpi=150)
    return written


def _columns(rows: Sequence[ChainRow]) -> dict[str, list[str]]:
    columns = {"method": [row.name for row in rows]}
    if len({row.setting for row in rows}) > 1:
        columns["setting"] = [str(row.setting) for row in rows]
    columns["seeds"] = [str(row.n) for row in rows]
    for name, head in HEADS.items():
        columns[head] = [f"{100 * row.scores[name].mean:.1f}" for row in rows]
    for name, head in GAINS.items():
        columns[head] = [str(row.gains.get(name, "-")) for row in rows]
    columns["compute units"] = [f"{row.compute_units:,.0f}" for row in rows]
    return columns


def _title(row: ChainRow, rows: Sequence[ChainRow]) -> str:
    title = row.name if len({other.setting for other in rows}) == 1 else f"{row.name}, {row.setting}"
    return f"{title} ({row.n} seeds)"


def _flat(row: ChainRow) -> dict[str, object]:
    values: dict[str, object] = {"name": row.name, **row.setting._asdict(), "seeds": row.n}
    for kind, intervals in (("", row.scores), ("_gain", row.gains)):
        for name in HEADS:
            interval: Interval | None = intervals.get(name)
            values |= {f"{name}{kind}_{end}": getattr(interval, end, None) for end in ("mean", "low", "high")}
    return values | {"compute_units": row.compute_units, "seconds": row.seconds}
