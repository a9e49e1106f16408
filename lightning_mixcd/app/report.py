"""`mixcd-report`: a table and figures of the runs in a folder."""

import argparse
import csv
import sys
from dataclasses import astuple, fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_mixcd.report import Record, Row, compare, plot_pareto, plot_rates, read_records
from lightning_mixcd.report.records import FILE

__all__ = ["main"]


def main() -> None:
    """Read the command line, print the table, write CSV and PNG beside the runs."""
    parser = argparse.ArgumentParser(prog="mixcd-report", description="Compare the runs below a folder.")
    parser.add_argument("folder", type=Path, help="folder of a `mixcd-train` run or sweep")
    parser.add_argument("--reference", default="uniform", help="strategy to compare with (default: uniform)")
    arguments = parser.parse_args()
    try:
        records = read_records(arguments.folder)
    except ValueError as error:
        parser.error(str(error))
    rows = compare(records, reference=arguments.reference)
    # Wide enough for the table where there is no terminal to ask.
    console = Console() if sys.stdout.isatty() else Console(width=130)
    console.print(_table(rows, records, arguments.reference))
    for path in _write(arguments.folder, rows, records):
        console.print(f"wrote {path}", soft_wrap=True)


def _table(rows: list[Row], records: list[Record], reference: str) -> Table:
    title = f"{records[0].data}: accuracy in %, paired difference to {reference} with 95 % interval"
    table = Table(title=title)
    for column in ("strategy", "mix ratio", "seeds", "prior", "new", "compute units", "prior gain", "new gain"):
        table.add_column(column, justify="left" if column == "strategy" else "right", no_wrap=True)
    for row in rows:
        values = (f"{row.mix_ratio:g}", f"{row.n}", f"{100 * row.prior:.1f}", f"{100 * row.new:.1f}")
        gains = (str(row.prior_gain or "-"), str(row.new_gain or "-"))
        table.add_row(row.strategy, *values, f"{row.compute_units:,.0f}", *gains)
    return table


def _write(folder: Path, rows: list[Row], records: list[Record]) -> list[Path]:
    written = [folder / "table.csv", folder / "pareto.png"]
    with written[0].open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([field.name for field in fields(Row)])
        writer.writerows(astuple(row) for row in rows)
    plot_pareto(records).savefig(written[1], dpi=150)
    runs: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob(f"mixcd*/**/{FILE}")):
        metrics = path.with_name("logs") / "metrics.csv"
        if metrics.exists():
            runs.setdefault(f"{path.parts[-4]}, mix ratio {path.parts[-3]}", []).append(metrics)
    if runs:
        written.append(folder / "rates.png")
        plot_rates(runs).savefig(written[2], dpi=150)
    return written
