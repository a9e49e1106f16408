"""`mixcd-report`: a page, tables and figures of the runs in a folder."""

import argparse
from pathlib import Path

from lightning_mixcd.app.chain_report import report_chains
from lightning_mixcd.app.tables import print_table, wide_console
from lightning_mixcd.report.columns import columns, markdown, values
from lightning_mixcd.report.configs import Configs, read_configs
from lightning_mixcd.report.figures import NAMES, figures
from lightning_mixcd.report.files import write_text
from lightning_mixcd.report.page import page
from lightning_mixcd.report.saving import ENDINGS, save, save_rows
from lightning_mixcd.report.sweep import Sweep, read_sweep

__all__ = ["main"]


def main() -> None:
    """Read the command line, print the table, and write page, tables and figures beside the runs."""
    parser = argparse.ArgumentParser(prog="mixcd-report", description="Compare the runs below a folder.")
    parser.add_argument("folder", type=Path, help="folder of a `mixcd-train` run or sweep")
    parser.add_argument("--reference", default="uniform", help="strategy to compare with (default: uniform)")
    parser.add_argument("--only", help="names of the methods to show, with commas between (default: all)")
    arguments = parser.parse_args()
    console = wide_console()
    try:
        chosen = {"reference": arguments.reference, "only": arguments.only}
        if report_chains(arguments.folder, **chosen, console=console):
            return
        sweep = read_sweep(arguments.folder, **chosen)
        configs = read_configs(sweep)
    except ValueError as error:
        parser.error(str(error))
    title = (
        f"{sweep.data}: accuracies, gains over {sweep.reference} and shares in %, with 95 % CI; time as a "
        "multiple"
    )
    ended = "* ended because its compute units were spent"
    print_table(console, title, columns(sweep.rows), caption=ended)
    for note in (*sweep.notes, *configs.notes):
        console.print(note, style="yellow", soft_wrap=True, markup=False)
    for path in _write(arguments.folder, sweep, configs):
        console.print(f"wrote {path}", soft_wrap=True, markup=False)


def _write(folder: Path, sweep: Sweep, configs: Configs) -> list[Path]:
    save_rows([values(row) for row in sweep.rows], folder / "table.csv")
    write_text(folder / "table.md", markdown(columns(sweep.rows)))
    pictures = figures(sweep)
    for picture in pictures:
        save(picture, folder)
    # Figures of an earlier report that there is nothing to show in any more would be taken for today's.
    drawn = [picture.name for picture in pictures]
    for name in {*NAMES}.difference(drawn):
        for ending in ENDINGS:
            (folder / f"{name}.{ending}").unlink(missing_ok=True)
    write_text(folder / "report.html", page(sweep, pictures, configs))
    endings = "{" + ",".join(ENDINGS) + "}"
    names = ["report.html", "table.csv", "table.md", *(f"{name}.{endings}" for name in drawn)]
    return [folder / name for name in names]
