"""A few runs to report on, and the command that does."""

import sys
from pathlib import Path

from lightning_mixcd.app import report
from lightning_mixcd.report import Record
from lightning_mixcd.report.records import METRICS


def write_runs(folder: Path) -> None:
    """Leave what two runs of each of two methods leave."""
    for name, gain in (("uniform", 0.0), ("mixcd", 0.05)):
        for seed in range(2):
            run = folder / f"{name}{seed}"
            (run / METRICS).parent.mkdir(parents=True)
            accuracy = 0.8 + gain + 0.01 * seed
            Record(name, 0.25, seed, "digits", accuracy, 0.9, 1000, 1.0, 0.1).write(run)
            (run / METRICS).write_text("step,rehearsal/rate/0,rehearsal/rate/1\n9,0.1,0.2\n19,0.2,0.1\n")


def write_report(folder: Path, rank: int) -> None:
    """Report on these runs, as the command does."""
    sys.argv = ["mixcd-report", str(folder / "runs")]
    report.main()


def files(folder: Path) -> dict[str, bytes]:
    """What lies in a folder of runs."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
