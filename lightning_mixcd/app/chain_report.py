"""The part of `mixcd-report` on chains: a table and heat maps of all chains in a folder."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lightning_mixcd.app.tables import print_table
from lightning_mixcd.report.chains import SCORES, ChainRow, compare_chains, read_chains
from lightning_mixcd.report.columns import markdown
from lightning_mixcd.report.files import files_named, replacing, write_text
from lightning_mixcd.report.intervals import in_columns
from lightning_mixcd.report.matrix import plot_matrices
from lightning_mixcd.report.picture import Value
from lightning_mixcd.report.records import FILE
from lightning_mixcd.report.saving import save_rows
from lightning_mixcd.report.sweep import notes_on, wanted_names

__all__ = ["report_chains"]

HEADS = {name: name.removesuffix("_transfer") for name in (*SCORES, "forward_transfer")}
GAINS = {"final": "final gain", "forgetting": "forgetting change"}


def report_chains(folder: Path, *, reference: str, only: str | None, console: Console) -> bool:
    """Print a table of the chains below a folder, and write it there as CSV and Markdown, with heat maps.

    Args:
        folder: The folder.
        reference: Name of the method to compare with.
        only: Names of the methods to show, with commas between; all if None.
        console: Where to print.

    Returns:
        Whether there are chains; without any, nothing is done.
    """
    records = read_chains(folder)
    if not records:
        return False
    names = {record.name for record in records}
    wanted = wanted_names(names, only)
    records = [record for record in records if record.name in wanted]
    rows, tasks = compare_chains(records, reference), records[0].tasks
    columns = _columns(rows)
    title = f"{' > '.join(tasks)}: scores and differences to {reference} in %, with 95 % CI"
    print_table(console, title, columns)
    notes = notes_on(folder, names, wanted, reference)
    if single := [path.parent for path in files_named(folder, FILE)]:
        notes.append(f"Beside the chains, in no table: {len(single)} other runs, such as {single[0]}.")
    for note in notes:
        console.print(note, style="yellow", soft_wrap=True, markup=False)
    save_rows([_flat(row) for row in rows], folder / "chains.csv")
    write_text(folder / "chains.md", markdown(columns))
    matrices = {_title(row, rows): [row.initial, *row.accuracies] for row in rows}
    with replacing(folder / "chains.png") as aside:
        plot_matrices(matrices, tasks).savefig(aside, dpi=150)
    for ending in ("csv", "md", "png"):
        console.print(f"wrote {folder / 'chains'}.{ending}", soft_wrap=True, markup=False)
    return True


def _columns(rows: Sequence[ChainRow]) -> dict[str, list[str]]:
    columns = {"method": [row.name for row in rows]}
    if len({row.setting for row in rows}) > 1:
        columns["setting"] = [str(row.setting) for row in rows]
    columns["seeds"] = [str(row.n) for row in rows]
    for name, head in HEADS.items():
        columns[head] = [f"{100 * row.scores[name].mean:.1f}" for row in rows]
    if any(gain.n != row.n for row in rows for gain in row.gains.values()):
        columns["pairs"] = [str(row.gains["final"].n if row.gains else "-") for row in rows]
    for name, head in GAINS.items():
        columns[head] = [str(row.gains.get(name, "-")) for row in rows]
    columns["compute units"] = [f"{row.compute_units:,.0f}" for row in rows]
    return columns


def _title(row: ChainRow, rows: Sequence[ChainRow]) -> str:
    title = row.name if len({other.setting for other in rows}) == 1 else f"{row.name}, {row.setting}"
    return f"{title} ({row.n} seeds)"


def _flat(row: ChainRow) -> dict[str, Value]:
    values: dict[str, Value] = {"name": row.name, **row.setting._asdict(), "seeds": row.n}
    for kind, intervals in (("", row.scores), ("_gain", row.gains)):
        for name in HEADS:
            values |= in_columns(f"{name}{kind}", intervals.get(name))
    return values | {"compute_units": row.compute_units, "seconds": row.seconds}
