"""`mixcd-report`: a table and figures of the runs in a folder."""

import argparse
import csv
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from lightning_mixcd.report import Record, read_records
from lightning_mixcd.report.files import replacing
from lightning_mixcd.report.intervals import Interval
from lightning_mixcd.report.plots import plot_pareto, plot_rates, read_rates
from lightning_mixcd.report.records import METRICS
from lightning_mixcd.report.tables import Row, compare

__all__ = ["main"]

INTERVALS = ("seconds", "prior_gain", "new_gain", "gap_closed", "matched_gain", "matched_gap_closed")


def main() -> None:
    """Read the command line, print the table, write it as CSV and Markdown, and PNG, beside the runs."""
    parser = argparse.ArgumentParser(prog="mixcd-report", description="Compare the runs below a folder.")
    parser.add_argument("folder", type=Path, help="folder of a `mixcd-train` run or sweep")
    parser.add_argument("--reference", default="uniform", help="strategy to compare with (default: uniform)")
    parser.add_argument("--only", help="names of the methods to show, with commas between (default: all)")
    arguments = parser.parse_args()
    try:
        records = _chosen(read_records(arguments.folder), arguments.only)
    except ValueError as error:
        parser.error(str(error))
    rows = compare(records.values(), reference=arguments.reference)
    # Wide enough for the table where there is no terminal to ask.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(_table(rows, next(iter(records.values())).data, arguments.reference))
    for path in _write(arguments.folder, rows, records):
        console.print(f"wrote {path}", soft_wrap=True)


def _chosen(records: dict[Path, Record], only: str | None) -> dict[Path, Record]:
    if only is None:
        return records
    there, wanted = {record.name for record in records.values()}, {*only.split(",")}
    if not wanted <= there:
        raise ValueError(
            f"`--only` must name methods of these runs, got {sorted(wanted - there)}. There are "
            f"{sorted(there)}."
        )
    return {path: record for path, record in records.items() if record.name in wanted}


def _table(rows: list[Row], data: str, reference: str) -> Table:
    title = f"{data}: accuracies, gains over {reference} and shares in %, with 95 % CI; time as a multiple"
    table = Table(title=title, caption="* ended because its compute units were spent")
    columns = _columns(rows)
    for head in columns:
        table.add_column(head, justify="left" if head == "method" else "right", no_wrap=True)
    for texts in zip(*columns.values(), strict=True):
        table.add_row(*texts)
    return table


def _columns(rows: list[Row]) -> dict[str, list[str]]:
    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    def times(ratio: Interval | None) -> str:
        return "-" if ratio is None else f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"

    def share(ratio: Interval | None) -> str:
        return (
            "-"
            if ratio is None
            else f"{100 * ratio.mean:.0f} [{100 * ratio.low:.0f}, {100 * ratio.high:.0f}]"
        )

    columns = {
        "method": [row.name for row in rows],
        "mix ratio": [f"{row.setting.mix_ratio:g}" for row in rows],
        "weight": _varying([row.setting.rehearsal_weight for row in rows]),
        "alpha": _varying([row.setting.alpha for row in rows]),
        "seeds": [f"{row.n}" for row in rows],
        "prior": [percent(row.prior) for row in rows],
        "new": [percent(row.new) for row in rows],
        "compute units": [f"{row.compute_units:,.0f}" for row in rows],
        "steps": [f"{row.steps:,.0f}{'*' * row.exhausted}" for row in rows],
        "time": [times(row.seconds) for row in rows],
        "damaged": [percent(row.damaged_share) for row in rows],
        "prior gain": [str(row.prior_gain or "-") for row in rows],
        "new gain": [str(row.new_gain or "-") for row in rows],
        "gap closed": [share(row.gap_closed) for row in rows],
        "gain at equal new": [str(row.matched_gain or "-") for row in rows],
        "gap closed there": [share(row.matched_gap_closed) for row in rows],
    }
    # A column that says nothing is left out, and one that says the same of all.
    return {head: texts for head, texts in columns.items() if {*texts} != {"-"}}


def _markdown(columns: dict[str, list[str]]) -> str:
    lines = [[*columns], ["---", *["---:"] * (len(columns) - 1)], *zip(*columns.values(), strict=True)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _varying(values: list[float]) -> list[str]:
    return [f"{value:g}" if len({*values}) > 1 else "-" for value in values]


def _flat(row: Row) -> dict[str, object]:
    values = {"name": row.name, **row.setting._asdict()}
    for name, value in vars(row).items():
        if name in INTERVALS:
            ends = ("mean", "low", "high")
            values |= {f"{name}_{end}": getattr(value, end, None) for end in ends}
        elif name not in {"name", "setting"}:
            values[name] = value
    return values


def _write(folder: Path, rows: list[Row], records: dict[Path, Record]) -> list[Path]:
    written = [folder / "table.csv", folder / "table.md", folder / "pareto.png"]
    with replacing(written[0]) as aside, aside.open("w", newline="") as file:
        flat = [_flat(row) for row in rows]
        writer = csv.DictWriter(file, flat[0])
        writer.writeheader()
        writer.writerows(flat)
    with replacing(written[1]) as aside:
        aside.write_text(_markdown(_columns(rows)), encoding="utf-8")
    with replacing(written[2]) as aside:
        plot_pareto(list(records.values())).savefig(aside, dpi=150)
    runs: dict[str, list[Path]] = {}
    for run, record in records.items():
        metrics = run / METRICS
        if read_rates(metrics)[0].size:
            runs.setdefault(f"{record.name}, {record.setting}", []).append(metrics)
    if runs:
        written.append(folder / "rates.png")
        with replacing(written[3]) as aside:
            plot_rates(runs).savefig(aside, dpi=150)
    return written
