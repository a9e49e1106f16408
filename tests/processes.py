"""Programs in processes of their own, all forked from one that has imported what takes seconds to import."""

import atexit
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["lightning_mixcd.app.finetune", "tests.soak.training", "tests.soak.reporting"])


def start(
    program: Callable[..., object],
    *arguments: Any,
    folder: Path,
    printed: Sequence[Path],
    environment: Mapping[str, str] | None = None,
) -> BaseProcess:
    """Start a program.

    Args:
        program: Called with the arguments.
        *arguments: Its arguments.
        folder: Where it starts.
        printed: Files for its output and its errors.
        environment: What its environment has besides.

    Returns:
        The process.
    """
    process = FORKS.Process(target=_begin, args=(program, arguments, folder, printed, environment or {}))
    process.start()
    return process


def run_script(
    script: Path, *arguments: str, folder: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a Python script as `python script` does, in a process of its own.

    Args:
        script: The script.
        *arguments: Its arguments.
        folder: Where it starts.
        seconds: After which it is killed.

    Returns:
        As of `subprocess.run`.
    """
    with tempfile.TemporaryDirectory() as own:
        printed = [Path(own, name) for name in ("out", "err")]
        process = start(_script, script, arguments, folder=folder, printed=printed)
        process.join(seconds)
        process.kill()
        process.join()
        out, err = (path.read_text(encoding="utf-8") for path in printed)
    return subprocess.CompletedProcess([script, *arguments], process.exitcode or 0, out, err)


def _script(script: Path, arguments: Sequence[str]) -> None:
    sys.argv, sys.path[0] = [str(script), *arguments], str(script.parent)
    runpy.run_path(str(script), run_name="__main__")


def _begin(
    program: Callable[..., object],
    arguments: Sequence[Any],
    folder: Path,
    printed: Sequence[Path],
    environment: Mapping[str, str],
) -> None:
    set_start_method("fork", force=True)  # of workers: as in a program that was not made by a fork server
    for descriptor, path in enumerate(printed, start=1):
        with path.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), descriptor)
    os.environ.update(environment)
    os.chdir(folder)
    try:
        program(*arguments)
    finally:
        atexit._run_exitfuncs()  # a forked process would leave without
