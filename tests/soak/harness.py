"""Kills and resumes until the work is done, and compares with the same work left alone."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.soak.death import Death
from tests.soak.processes import Delay, run
from tests.soak.reporting import files, write_report, write_runs
from tests.soak.training import (
    EVERY_N_STEPS,
    VALIDATE_EVERY_N_BATCHES,
    Case,
    Key,
    Read,
    read_notes,
    train,
)


@dataclass(frozen=True)
class Kill:
    """A kill, and what was resumed after it."""

    death: Death | Delay
    from_checkpoint: bool  # otherwise from the beginning
    differences: list[str]  # to the work left alone
    unlogged: bool = False  # whether the log lacks something of one step, see `never_logged`


def kill_training(case: Case, deaths: Sequence[Death | Delay]) -> list[Kill]:
    """Kill a run as often as wished, resume it each time, and compare it with one left alone.

    Args:
        case: What to train.
        deaths: When each attempt is to die; after the last of them the run is left alone.

    Returns:
        The kills that came to pass, before the run came to its end.
    """
    with tempfile.TemporaryDirectory(prefix="soak") as made:
        whole, killed = Path(made, "a"), Path(made, "b")
        run(train, whole, case, 0, n_processes=case.n_processes)
        expected = read_notes(whole, case, 0)
        kills: list[Kill] = []
        noted, unlogged = Read(), set[Key]()
        died: Death | Delay | None = None
        for attempt, death in enumerate([*deaths, None]):
            ended = run(train, killed, case, attempt, n_processes=case.n_processes, death=death)
            found = read_notes(killed, case, attempt)
            problems = compare(found, expected) + compare_start(found, noted, case)
            lost = never_logged(found, noted, expected) if case.saves == "steps" else set()
            unlogged |= lost
            noted |= found
            if ended:
                missing = expected.keys() - noted.keys()
                problems += [f"lacks {key}" for key in missing - unlogged]
                problems += compare_files(files(killed / "base.ledger"), files(whole / "base.ledger"))
            if died is not None:
                kills.append(Kill(died, first_batch(found) > first_batch(expected), problems, bool(lost)))
            elif problems:
                raise AssertionError(f"{case} is not the same twice: {problems[:5]}")
            if ended:
                break
            died = death
        return kills


def kill_report(deaths: Sequence[Death | Delay]) -> list[Kill]:
    """Kill the command `mixcd-report`, run it again, and compare what it leaves.

    Args:
        deaths: When it is to die, each time in a new folder.

    Returns:
        The kills that came to pass.
    """
    with tempfile.TemporaryDirectory(prefix="soak") as made:
        whole, kills = Path(made, "whole"), []
        write_runs(whole / "runs")
        run(write_report, whole)
        expected = files(whole / "runs")
        for number, death in enumerate(deaths):
            folder = Path(made, str(number))
            write_runs(folder / "runs")
            if run(write_report, folder, death=death):
                continue
            left = {name: content for name, content in files(folder / "runs").items() if ".part." not in name}
            problems = [f"left a part of {name}" for name in left if left[name] != expected[name]]
            run(write_report, folder)
            kills.append(Kill(death, False, problems + compare_files(files(folder / "runs"), expected)))
        return kills


def compare(found: Read, expected: Read) -> list[str]:
    """Everything noted that was not noted by the run left alone."""
    nothing = object()
    return [f"{key}: {value}" for key, value in found.items() if expected.get(key, nothing) != value]


def compare_start(found: Read, before: Read, case: Case) -> list[str]:
    """An attempt repeats no more than what was done since the newest checkpoint."""
    batches = [at for _, kind, at in before if kind == "samples"]
    if not batches or first_batch(found) < 0:
        return []
    repeated = max(batches) + 1 - first_batch(found)
    # At the end of an epoch, up to two batches come after its last validation.
    steps, validations = EVERY_N_STEPS * case.accumulate, VALIDATE_EVERY_N_BATCHES + 2
    most = steps if case.saves == "steps" else validations
    return [f"{repeated} batches were made again, {most} at most had to be"] if repeated > most else []


def never_logged(found: Read, before: Read, expected: Read) -> set[Key]:
    """What is lost of the step whose checkpoint was resumed.

    Lightning logs and validates after it has saved, and goes on behind that, whether or not there was time.
    """
    at = first_batch(found) - 1
    steps = {rank: step for (rank, kind, batch), step in expected.items() if (kind, batch) == ("step", at)}
    return {
        key
        for key in expected.keys() - before.keys()
        if key[1:] == ("validated", at) or (key[1].startswith("logged") and key[2] == steps.get(key[0]))
    }


def first_batch(noted: Read) -> int:
    """The batch that was made first, or the number of all where none was left; -1 if it died before."""
    return min((at for _, kind, at in noted if kind in {"samples", "weights"}), default=-1)


def compare_files(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Files that are not as they should be; others may lie beside them."""
    return [name for name in expected if found.get(name) != expected[name]]
