"""Programs in processes of their own, which die when and where they are told to."""

import os
import signal
import socket
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, set_start_method
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from tests.processes import FORKS
from tests.soak.death import Death

PATIENCE = 120.0  # seconds that no program needs


@dataclass(frozen=True)
class Delay:
    """A death so many seconds after the start, wherever the program then is."""

    seconds: float
    phase = "any moment"


def run(
    program: Callable[..., None],
    folder: Path,
    *arguments: Any,
    n_processes: int = 1,
    death: Death | Delay | None = None,
) -> bool:
    """Run a program to its end or to its death.

    Args:
        program: Called with folder, arguments and rank.
        folder: What it writes to; what it prints and its temporary files go there too.
        *arguments: Its further arguments.
        n_processes: How many processes run it; the first one dies, the others are killed after it.
        death: When it dies.

    Returns:
        Whether it came to its end.

    Raises:
        RuntimeError: If it failed or hung.
    """
    folder.mkdir(exist_ok=True)
    port = _free_port() if n_processes > 1 else None
    processes = [
        FORKS.Process(
            target=_begin,
            args=(program, folder, arguments, rank, port, death if rank == 0 else None),
        )
        for rank in range(n_processes)
    ]
    for process in processes:
        process.start()
    first = connection.wait(
        [process.sentinel for process in processes],
        death.seconds if isinstance(death, Delay) else PATIENCE,
    )
    for process in processes:
        if first and processes[0].exitcode != -signal.SIGKILL:
            process.join(PATIENCE)
        _kill(process)
    codes = [process.exitcode for process in processes]
    # A delay may be over just as the program ends.
    deadly = {Death: {-signal.SIGKILL}, Delay: {-signal.SIGKILL, 0}}.get(type(death), set())
    hung = not first and not isinstance(death, Delay)
    if any(codes) and (hung or codes[0] not in deadly):
        raise RuntimeError(f"exit codes {codes}\n{(folder / 'printed').read_text()[-5000:]}")
    return not any(codes)


def _kill(process: BaseProcess) -> None:
    with suppress(ProcessLookupError):  # not yet a group of its own, or nobody is left of it
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _begin(
    program: Callable[..., None],
    folder: Path,
    arguments: tuple[Any, ...],
    rank: int,
    port: int | None,
    death: Death | Delay | None,
) -> None:
    os.setsid()
    set_start_method("fork", force=True)  # of workers: as in a program that was not made by a fork server
    with (folder / "printed").open("a") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    tempfile.tempdir = str(folder)
    if port is not None:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "NODE_RANK": "0",
            "LOCAL_RANK": str(rank),
        }
    if isinstance(death, Death):
        death.arm()
    program(folder, *arguments, rank)
