"""A recording process that is killed loses nothing that was flushed."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger, LedgerWriter

SIZE = 200_000
COLUMNS = {"features": ("float16", (16,))}

CHILD = """
import sys
import numpy as np
from lightning_mixcd.ledger import LedgerWriter
from tests.ledger.test_crash import COLUMNS, SIZE, content

writer = LedgerWriter(sys.argv[1], SIZE, columns=COLUMNS, pool=None, model=None)
missing = np.flatnonzero(~writer.recorded)
for number, index in enumerate(np.array_split(missing, len(missing) // 20)):
    writer.write(index, **content(index))
    if number % 10 == 9:
        writer.flush()
        print(writer.n_recorded, flush=True)
"""


def content(index):
    return {
        "correct": index % 3 == 0,
        "loss": (index % 1001).astype(np.float32),
        "features": np.repeat(index[:, None] % 512, 16, axis=1).astype(np.float16),
    }


def record_and_kill(path, n_flushes):
    """Let a child record, kill it without warning after some flushes; return what it had reported safe."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    with child:
        for _ in range(n_flushes):
            reported = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        # What it managed to report between our last look and its death counts as well.
        for line in child.stdout:
            if line.endswith("\n"):
                reported = int(line)
    assert child.returncode == -signal.SIGKILL
    return reported


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_recordings_go_on_where_they_stopped(tmp_path):
    path, reported = tmp_path / "a", 0
    for n_flushes in (3, 11):
        writer = None  # lets go of the folder
        before, reported = reported, record_and_kill(path, n_flushes)
        writer = LedgerWriter(path, SIZE, columns=COLUMNS, pool=None, model=None)
        assert before < reported <= writer.n_recorded < SIZE
        rows = np.flatnonzero(writer.recorded)
        for name, expected in content(rows).items():
            np.testing.assert_array_equal(np.load(path / f"{name}.npy", mmap_mode="r")[rows], expected)
        with pytest.raises(
            LedgerError, match=f"{writer.n_recorded} of {SIZE} recorded; run the recording again"
        ):
            Ledger.open(path)
    missing = np.flatnonzero(~writer.recorded)
    writer.write(missing, **content(missing))
    ledger = writer.finish(forwards=SIZE)
    for name, expected in content(np.arange(SIZE)).items():
        np.testing.assert_array_equal(ledger.column(name), expected)
    Ledger.open(path, verify=True)
