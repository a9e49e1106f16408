"""Print the tables of `docs/study.md` and `docs/study_encoder.md` from what their scripts ran.

    python benchmarks/study_tables.py study > tables.md
    python benchmarks/study_tables.py full > tables.md

The folder holds one for each pairing; those without an oracle yet are left out. Tables that show one mix
ratio show the middle one of the pairing's. Gains whose interval is on one side of 0 are bold.

Above the curve: uniform rehearsal with several rehearsal weights is a curve, new against prior accuracy. Its
prior accuracy where the new one is the method's is what a method must beat; see `matched_gain`.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path

from lightning_mixcd.report import Record, Setting, read_records
from lightning_mixcd.report.intervals import Interval
from lightning_mixcd.report.matching import matched_gain
from lightning_mixcd.report.tables import Row, compare

PAIRINGS = (
    *("digits", "intents", "topics", "sentiment", "fashion", "rotated", "usps", "nli2"),
    *("intents_text", "topics_text", "sentiment_text", "nli2_text", "spans"),
)
# In the order of the tables; the ledger of `_free` was not charged, `_part` rehearsed a part of the pool.
METHODS = (
    *("none", "uniform", "uniform_part", "uniform_correct", "mixcd_shuffled"),
    *("mixcd", "mixcd_part", "mixcd_free", "head_probe", "head_probe_part", "head_probe_free"),
    *("probe_matching", "probe_matching_part", "probe_matching_free"),
    *("screen_highest_loss", "gradient_matching", "mir", "oracle_75", "oracle", "oracle_25", "oracle_pure"),
    *("uniform+kd", "mixcd+kd", "head_probe+kd", "gradient_matching+kd"),
)
SUMMARY = (
    *("mixcd", "mixcd_free", "head_probe", "head_probe_free"),
    *("probe_matching", "probe_matching_part", "probe_matching_free"),
    *("screen_highest_loss", "gradient_matching", "mir"),
)
DIFFERENCES = (
    ("mixcd", "uniform_correct"),
    ("mixcd", "mixcd_shuffled"),
    ("head_probe", "uniform_correct"),
    ("head_probe", "mixcd"),
    ("probe_matching", "mixcd"),
    ("probe_matching", "head_probe"),
    ("probe_matching_free", "mixcd_free"),
    ("probe_matching_free", "head_probe_free"),
    ("gradient_matching", "screen_highest_loss"),
    ("gradient_matching", "head_probe_free"),
    ("head_probe+kd", "uniform+kd"),
    ("gradient_matching+kd", "uniform+kd"),
)

OF_LEDGERS = (
    ("uniform_part", "uniform"),
    *(
        (name + kind, "uniform")
        for name in ("mixcd", "head_probe", "probe_matching")
        for kind in ("", "_part", "_free")
    ),
)

Study = dict[str, list[Record]]  # by pairing


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description="Print the tables of the study.")
    parser.add_argument("folder", type=Path, help="with a folder of runs for each pairing")
    folder: Path = parser.parse_args().folder
    there = [name for name in PAIRINGS if (folder / name).is_dir()]
    study = {name: [*read_records(folder / name).values()] for name in there}
    study = {name: runs for name, runs in study.items() if _rows(runs).keys() >= {"uniform", "oracle"}}
    _print("Prior gain over uniform rehearsal", gains(study, lambda row, _: row.prior_gain))
    _print("Mean gains by mix ratio, prior / new", by_ratio(study))
    _print("Above the curve of uniform rehearsal", gains(study, above_curve))
    _print("Gap closed", gap_closed(study))
    _print("Differences", differences(study, DIFFERENCES))
    _print("What the ledger costs", differences(study, OF_LEDGERS))
    for name, records in study.items():
        title = name.replace("nli2", "inference").removesuffix("_text").capitalize()
        print(f"## {title}\n")
        for ratio in sorted({record.mix_ratio for record in records}):
            _print(f"{title}: mix ratio 1/{1 / ratio:.0f}", methods(records, ratio), level=3)
        if len({run.rehearsal_weight for run in records}) > 1:
            _print(f"{title}: rehearsal weights, new → prior accuracy", weights(records), level=3)


def above_curve(row: Row, records: Sequence[Record]) -> Interval | None:
    """Compare a method with uniform rehearsal of such weight that both learn the new task as well.

    Args:
        row: The method.
        records: Runs of the pairing.

    Returns:
        The gain in prior accuracy, open where the curve ends; None of uniform rehearsal itself, and at other
        mix ratios than the curve's.
    """
    ratio = middle_ratio(records)
    if row.name == "uniform" or row.setting.mix_ratio != ratio:
        return None
    curve: dict[Setting, dict[int, Record]] = {}
    for run in records:
        if run.name == "uniform" and run.mix_ratio == ratio:
            curve.setdefault(run.setting, {})[run.seed] = run
    method = {run.seed: run for run in records if run.name == row.name and run.setting == row.setting}
    gain = matched_gain([*curve.values()], method)
    return gain and Interval(-gain.mean, -gain.high, -gain.low)


def gains(study: Study, gain: Callable[[Row, Sequence[Record]], Interval | None]) -> str:
    """Show what each method gains, pairing by pairing.

    Args:
        study: The runs.
        gain: Of a method, given its row and the runs of the pairing.

    Returns:
        A table in Markdown.
    """
    lines, columns = [], []
    for name, records in study.items():
        rows = _rows(records)
        base, found = rows["uniform"], [rows.get(method) for method in SUMMARY]
        cells = [row and gain(row, records) for row in found]
        columns.append(cells)
        lines.append([name, f"{_percent(base.prior)}, {_percent(base.new)}", *map(text, cells)])
    means = [mean_gain(column) for column in zip(*columns, strict=True)]
    if any(means):
        lines.append(["mean", "", *map(text, means)])
    return markdown(["pairing", "uniform: prior, new", *SUMMARY], lines)


def by_ratio(study: Study) -> str:
    """Show what each method gains over uniform rehearsal in the mean of all pairings, at each mix ratio.

    Args:
        study: The runs.

    Returns:
        A table in Markdown.
    """
    ratios = sorted({record.mix_ratio for records in study.values() for record in records})
    tables = [[_rows(records, ratio) for records in study.values()] for ratio in ratios]
    lines = []
    for method in METHODS:
        cells = []
        for table in tables:
            rows = [of_pairing.get(method) for of_pairing in table]
            means = [
                mean_gain([row and gain(row) for row in rows])
                for gain in (attrgetter("prior_gain"), attrgetter("new_gain"))
            ]
            cells.append(" / ".join(map(text, means)) if any(means) else "-")
        if {*cells} != {"-"}:
            lines.append([method, *cells])
    return markdown(["method", *(f"1/{1 / ratio:.0f}" for ratio in ratios)], lines)


def gap_closed(study: Study) -> str:
    """Show which share of the best oracle's gain each method gains, pairing by pairing.

    Args:
        study: The runs.

    Returns:
        A table in Markdown.
    """
    lines = []
    for name, records in study.items():
        rows = _rows(records)
        best = max((row for row in rows.values() if row.name.startswith("oracle")), key=lambda row: row.prior)
        cells = [_share(rows[method].gap_closed) if method in rows else "-" for method in SUMMARY]
        lines.append([name, f"{best.name}: {text(best.prior_gain)}", *cells])
    return markdown(["pairing", "best oracle's gain", *SUMMARY], lines)


def differences(study: Study, pairs: Iterable[tuple[str, str]]) -> str:
    """Show paired differences between methods, pairing by pairing.

    Args:
        study: The runs.
        pairs: The methods, two by two.

    Returns:
        A table in Markdown.
    """
    lines = []
    for better, other in pairs:
        rows = [_rows(records, reference=other).get(better) for records in study.values()]
        found = [row and row.prior_gain for row in rows]
        if any(found):
            learnt = mean_gain([row and row.new_gain for row in rows])
            lines.append([f"{better} - {other}", *map(text, found), text(mean_gain(found)), text(learnt)])
    return markdown(["difference in prior accuracy", *study, "mean", "mean, new accuracy"], lines)


def methods(records: Sequence[Record], ratio: float) -> str:
    """Show all methods of one pairing at one mix ratio.

    Args:
        records: Runs of the pairing.
        ratio: The mix ratio.

    Returns:
        A table in Markdown.
    """
    columns: dict[str, Callable[[Row], str]] = {
        "method": lambda row: row.name,
        "seeds": lambda row: f"{row.n}",
        "prior": lambda row: _percent(row.prior),
        "new": lambda row: _percent(row.new),
        "steps": lambda row: f"{row.steps:.0f}",
        "damaged": lambda row: "-" if row.damaged_share is None else _percent(row.damaged_share),
        "prior gain": lambda row: text(row.prior_gain),
        "new gain": lambda row: text(row.new_gain),
        "gap closed": lambda row: _share(row.gap_closed),
        "above the curve": lambda row: text(above_curve(row, records)),
    }
    rows = _rows(records, ratio)
    chosen = [rows[name] for name in METHODS if name in rows]
    return markdown([*columns], [[show(row) for show in columns.values()] for row in chosen])


def weights(records: Sequence[Record]) -> str:
    """Show what weight on rehearsed rows does: new and prior accuracy, and how far above the curve that is.

    Args:
        records: Runs of one pairing.

    Returns:
        A table in Markdown.
    """
    ratio = middle_ratio(records)
    alike = [row for row in compare(records) if row.setting.mix_ratio == ratio and row.setting.alpha == 1]
    cells = {(row.name, row.setting.rehearsal_weight): _arrow(row, records) for row in alike}
    swept = sorted({weight for _, weight in cells})
    names = [name for name in METHODS if len([0 for other, _ in cells if other == name]) > 1]
    lines = [[name, *(cells.get((name, weight), "-") for weight in swept)] for name in names]
    return markdown(["method", *(f"weight {weight:g}" for weight in swept)], lines)


def middle_ratio(records: Iterable[Record]) -> float:
    """Return the mix ratio that tables of one ratio show."""
    ratios = sorted({run.mix_ratio for run in records})
    return ratios[len(ratios) // 2]


def _rows(
    records: Sequence[Record], ratio: float | None = None, *, reference: str = "uniform"
) -> dict[str, Row]:
    alike = [run for run in records if run.setting == Setting(ratio or middle_ratio(records))]
    return {row.name: row for row in compare(alike, reference=reference)}


def mean_gain(gains: Sequence[Interval | None]) -> Interval | None:
    """Average over pairings, which err independently; None unless all are there, with both ends."""
    known = [gain for gain in gains if gain and math.isfinite(gain.high - gain.low)]
    if len(known) < len(gains):
        return None
    mean = sum(gain.mean for gain in known) / len(known)
    half = math.hypot(*((gain.high - gain.low) / 2 for gain in known)) / len(known)
    return Interval(mean, mean - half, mean + half)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _arrow(row: Row, records: Sequence[Record]) -> str:
    arrow, above = f"{_percent(row.new)} → {_percent(row.prior)}", above_curve(row, records)
    return arrow if above is None else f"{arrow}, {text(above)}"


def text(gain: Interval | None) -> str:
    """Show a gain, in bold where 0 is outside of its interval."""
    if gain is None:
        return "-"
    if gain.low == gain.high:
        return f"{100 * gain.mean:+.1f}" if gain.mean else "0"
    return f"**{gain}**" if gain.low > 0 or gain.high < 0 else str(gain)


def _share(gap: Interval | None) -> str:
    return "-" if gap is None else gap.written(".2f")


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *lines])


def _print(title: str, table: str, *, level: int = 2) -> None:
    print(f"{'#' * level} {title}\n\n{table}\n")


if __name__ == "__main__":
    main()
