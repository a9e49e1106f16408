"""Draw prior against new accuracy for every pairing of `docs/study.md` and `docs/study_encoder.md`.

    python benchmarks/study_figures.py study figures
    python benchmarks/study_figures.py full figures --curves

The first folder holds one of runs for each pairing. Shown are the methods that tell most, at the middle mix
ratio, and uniform rehearsal with all its weights; with `--curves` fewer methods, with all weights of each.
"""

import argparse
from functools import cached_property
from pathlib import Path

from study_tables import PAIRINGS, middle_ratio

from lightning_mixcd.report import Record, read_records
from lightning_mixcd.report.figures import figures
from lightning_mixcd.report.saving import save
from lightning_mixcd.report.style import Style, styles
from lightning_mixcd.report.sweep import Sweep

SHOWN = (
    *("mixcd", "mixcd_free", "head_probe_free", "probe_matching_free", "probe_matching_part"),
    *("screen_highest_loss", "gradient_matching", "mir", "oracle"),
)
CURVES = (
    *("uniform", "mixcd", "probe_matching_part", "probe_matching_free"),
    *("screen_highest_loss", "gradient_matching"),
)


class Study(Sweep):
    """Runs of one pairing, in which a method looks as in those of every other."""

    @cached_property
    def styles(self) -> dict[str, Style]:
        """The look of every method."""
        looks = styles([*dict.fromkeys((*CURVES, *SHOWN))])
        return {name: looks[name] for name in looks if name in {row.name for row in self.rows}}


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description="Draw the figures of the study.")
    parser.add_argument("folder", type=Path, help="with a folder of runs for each pairing")
    parser.add_argument("figures", type=Path, help="where to write one folder for each")
    parser.add_argument("--curves", action="store_true", help="all weights of fewer methods")
    asked = parser.parse_args()
    is_shown = _is_in_curve if asked.curves else _is_shown
    for name in PAIRINGS:
        if not (asked.folder / name).is_dir():
            continue
        records = read_records(asked.folder / name)
        ratio = middle_ratio(records.values())
        shown = {path: run for path, run in records.items() if run.mix_ratio == ratio and is_shown(run)}
        sweep = Study(shown, {path: {} for path in shown}, "uniform")
        into = asked.figures / name
        into.mkdir(parents=True, exist_ok=True)
        [picture] = figures(sweep, ["pareto"])
        save(picture, into)


def _is_shown(run: Record) -> bool:
    return run.name == "uniform" or (run.name in SHOWN and run.rehearsal_weight == 1)


def _is_in_curve(run: Record) -> bool:
    return run.name in CURVES


if __name__ == "__main__":
    main()
