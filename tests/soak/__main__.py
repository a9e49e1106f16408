"""The long form: `make soak`."""

import argparse
import dataclasses
import sys
import time
from collections.abc import Iterable

from tests.soak.harness import Kill, kill_report, kill_training
from tests.soak.plan import planned
from tests.soak.training import Case

HEAD = """
| {} | kills | resumed from a checkpoint | same as left alone | with a gap in the log |
|---|---|---|---|---|"""


def table(title: str, kills: Iterable[tuple[str, Kill]]) -> str:
    """Kills and what became of them, by name."""
    rows: dict[str, list[Kill]] = {}
    for name, kill in kills:
        rows.setdefault(name, []).append(kill)
    lines = [HEAD.format(title)]
    for name, of in sorted(rows.items()):
        resumed, same = sum(kill.from_checkpoint for kill in of), sum(not kill.differences for kill in of)
        lines.append(f"| {name} | {len(of)} | {resumed} | {same} | {sum(kill.unlogged for kill in of)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Kill and resume many runs.")
    parser.add_argument("--seed", type=int, default=0)
    seed, start = parser.parse_args().seed, time.monotonic()
    trainings, reports = planned(seed)
    found: list[tuple[Case | None, Kill]] = []
    for number, (case, deaths) in enumerate([*trainings, (None, reports)], start=1):
        kills = kill_report(deaths) if case is None else kill_training(case, deaths)
        found += [(case, kill) for kill in kills]
        problems = [f"\n    {kill.death}: {kill.differences[:5]}" for kill in kills if kill.differences]
        print(
            f"{number}: {case or 'report'}: {len(kills)} kills{''.join(problems) or ', same'}",
            file=sys.stderr,
        )
    print(table("killed in", [(kill.death.phase, kill) for _, kill in found]))
    for field in dataclasses.fields(Case):
        name = field.name.removeprefix("n_")
        print(table(name, [(str(getattr(case, field.name)), kill) for case, kill in found if case]))
    same = sum(not kill.differences for _, kill in found)
    print(f"\n{same} of {len(found)} kills left no trace; seed {seed}, {time.monotonic() - start:.0f} s")
    return int(same < len(found))


if __name__ == "__main__":
    sys.exit(main())
