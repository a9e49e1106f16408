"""Two processes that record into one folder at the same time: one whole ledger, or a clear error."""

import contextlib
import subprocess
import sys

import numpy as np
import pytest

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger, LedgerWriter
from tests.ledger.cases import SIZE, make_writer, record, rows

N = 400

# Reads folders from its input, and records into each as soon as it has read its name.
RIVAL = """
import sys
import numpy as np
from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import LedgerWriter, recording

size, mark = int(sys.argv[1]), float(sys.argv[2])
print("ready", flush=True)
for line in sys.stdin:
    wait, path = line.split(maxsplit=1)
    recording._WAIT_SECONDS = float(wait)
    try:
        writer = LedgerWriter(path.strip(), size, columns={}, pool=None, model=None)
        for index in np.array_split(np.flatnonzero(~writer.recorded), 4):
            writer.write(index, correct=index >= 0, loss=np.full(len(index), mark, dtype=np.float32))
            writer.flush()
        writer.finish(forwards=size)
        print("made", flush=True)
    except LedgerError as error:
        print(error, flush=True)
"""
KEPT_OUT = "`path` must be recorded by one process at a time"
TOO_LATE = "`path` must not hold a finished ledger"
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}


@pytest.mark.slow
def test_one_of_two_wins(tmp_path):
    with contextlib.ExitStack() as stack:
        command = [sys.executable, "-c", RIVAL, str(N)]
        rivals = [stack.enter_context(subprocess.Popen([*command, mark], **PIPES)) for mark in "12"]
        assert [rival.stdout.readline() for rival in rivals] == ["ready\n"] * 2
        for wait, losers in ((0, {KEPT_OUT, TOO_LATE}), (60, {TOO_LATE})):
            for number in range(4):
                path = tmp_path / f"{wait}-{number}"
                for rival in rivals:
                    rival.stdin.write(f"{wait} {path}\n")
                    rival.stdin.flush()
                said = [rival.stdout.readline().partition(",")[0].strip() for rival in rivals]
                assert said.count("made") == 1
                assert {*said} - {"made"} <= losers
                assert {float(loss) for loss in Ledger.open(path).loss} == {1.0 + said.index("made")}
                names = {file.name for file in path.iterdir()}
                assert names == {"header.json", "correct.npy", "loss.npy"}


HOLDER = """
import sys
from filelock import FileLock
lock = FileLock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_free_as_soon_as_its_process_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_mixcd.ledger.recording._WAIT_SECONDS", 0.1)
    path = tmp_path / "a"
    writer = make_writer(path)
    writer.write([1], **rows([1]))
    writer.flush()
    del writer
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(path / "recording.lock")], **PIPES) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LedgerError, match=r"another one is recording `.*a`\. Wait until it is done"):
            make_writer(path)
        with pytest.raises(LedgerError, match="1 of 7 recorded"):
            Ledger.open(path)
        holder.kill()
    assert np.flatnonzero(make_writer(path).recorded).tolist() == [1]


def test_an_abandoned_writer_keeps_no_other_of_its_process_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writers = [make_writer(path) for path in (tmp_path / "a", "a", "../" + tmp_path.name + "/a")]
    del writers[:2]
    writers[-1].write(np.arange(SIZE), **rows(np.arange(SIZE)))
    writers[-1].finish(forwards=0)


def test_a_refused_folder_is_left_as_it_was(tmp_path):
    record(tmp_path / "finished")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    for name in ("finished", "other"):
        before = sorted((tmp_path / name).iterdir())
        with pytest.raises(LedgerError, match="`path` must"):
            LedgerWriter(tmp_path / name, SIZE, columns={}, pool=None, model=None)
        assert sorted((tmp_path / name).iterdir()) == before
