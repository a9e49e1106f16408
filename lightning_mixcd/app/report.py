"""`mixcd-report`: a table and figures of the runs in a folder."""

import argparse
import csv
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_mixcd.report import Record, read_records
from lightning_mixcd.report.files import replacing
from lightning_mixcd.report.plots import plot_pareto, plot_rates, read_rates
from lightning_mixcd.report.records import METRICS
from lightning_mixcd.report.tables import Row, compare

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
    rows = compare(records.values(), reference=arguments.reference)
    # Wide enough for the table where there is no terminal to ask.
    console = Console() if sys.stdout.isatty() else Console(width=130)
    console.print(_table(rows, next(iter(records.values())).data, arguments.reference))
    for path in _write(arguments.folder, rows, records):
        console.print(f"wrote {path}", soft_wrap=True)


def _table(rows: list[Row], data: str, reference: str) -> Table:
    title = (
        f"{data}: accuracy and damaged share of rehearsed samples in %, gain over {reference} with 95 % CI"
    )
    table = Table(title=title)
    for column in (
        "method",
        "mix ratio",
        "seeds",
        "prior",
        "new",
        "compute units",
        "damaged",
        "prior gain",
        "new gain",
    ):
        table.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    for row in rows:
        values = (f"{row.mix_ratio:g}", f"{row.n}", f"{100 * row.prior:.1f}", f"{100 * row.new:.1f}")
        damaged = "-" if row.damaged_share is None else f"{100 * row.damaged_share:.1f}"
        gains = (str(row.prior_gain or "-"), str(row.new_gain or "-"))
        table.add_row(row.name, *values, f"{row.compute_units:,.0f}", damaged, *gains)
    return table


def _flat(row: Row) -> dict[str, object]:
    values = asdict(row)
    for gain in ("prior_gain", "new_gain"):
        interval = values.pop(gain) or {}
        values |= {f"{gain}_{end}": interval.get(end) for end in ("mean", "low", "high")}
    return values


def _write(folder: Path, rows: list[Row], records: dict[Path, Record]) -> list[Path]:
    written = [folder / "table.csv", folder / "pareto.png"]
    with replacing(written[0]) as aside, aside.open("w", newline="") as file:
        flat = [_flat(row) for row in rows]
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        writer.writerows(flat)
    with replacing(written[1]) as aside:
        plot_pareto(list(records.values())).savefig(aside, dpi=150)
    runs: dict[str, list[Path]] = {}
    for run, record in records.items():
        metrics = run / METRICS
        if read_rates(metrics)[0].size:
            runs.setdefault(f"{record.name}, mix ratio {record.mix_ratio:g}", []).append(metrics)
    if runs:
        written.append(folder / "rates.png")
        with replacing(written[2]) as aside:
            plot_rates(runs).savefig(aside, dpi=150)
    return written
