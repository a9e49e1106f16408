"""Where a process can be made to die, as by `kill -9`: no handler runs, no buffer is written."""

import csv
import functools
import itertools
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch import Trainer
from matplotlib.figure import Figure

from lightning_mixcd import RehearsalCallback
from lightning_mixcd.ledger import LedgerWriter
from tests.soak.chancy import Chancy


def die() -> None:
    """Kill the own process group: this process and the workers of its loaders."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


def die_half_copied(source: str, target: str) -> None:
    """Leave half of a file under its final name, as a move to another disk does when it is killed."""
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: len(content) // 2])
    die()


def die_half_drawn(figure: Figure, path: Path, *, transparent: bool, **settings: Any) -> None:
    """Leave half of a picture."""
    figure.canvas.print_figure(path, **settings)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    die()


@dataclass(frozen=True)
class Point:
    """A function whose call is a good moment to die.

    The process dies instead of that call, unless something else is to be done instead.
    """

    owner: Any
    name: str
    times: int  # it is called at least as often, before the run ends
    instead: Callable[..., None] = lambda *args, **settings: die()


POINTS = {
    "ledger recording": [
        Point(LedgerWriter, "write", 3),
        Point(np.memmap, "flush", 8),
        Point(Path, "replace", 3),  # of plan, mask and header
        Point(Path, "unlink", 2),
    ],
    "mid-epoch": [
        Point(Chancy, "backward", 12),
        Point(Chancy, "optimizer_step", 4),
        Point(RehearsalCallback, "on_train_batch_end", 12),
    ],
    "validation": [Point(Chancy, "validation_step", 3)],
    "checkpoint writing": [
        Point(Trainer, "save_checkpoint", 3),
        Point(shutil, "move", 3, die_half_copied),
        Point(TorchCheckpointIO, "remove_checkpoint", 1),
    ],
    "report": [
        Point(csv.DictWriter, "writerows", 1),
        Point(Figure, "savefig", 2, die_half_drawn),
        Point(Path, "replace", 3),
    ],
}


@dataclass(frozen=True)
class Death:
    """A death at the nth call of a point."""

    phase: str
    point: int
    nth: int

    def __str__(self) -> str:
        return f"{self.phase}, call {self.nth} of {POINTS[self.phase][self.point].name}"

    def arm(self) -> None:
        """Let this process die there."""
        point, calls = POINTS[self.phase][self.point], itertools.count(1)
        original = getattr(point.owner, point.name)

        @functools.wraps(original)
        def deadly(*args: Any, **settings: Any) -> Any:
            return (point.instead if next(calls) == self.nth else original)(*args, **settings)

        setattr(point.owner, point.name, deadly)
