"""Several processes on the CPU, each a plain subprocess that writes down what it saw."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import torch


def together(tmp_path_factory, module, n):
    """Folder and notes of `n` processes that ran a module; run once, also where tests run side by side."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / module
    try:
        folder.mkdir()
    except FileExistsError:
        deadline = time.monotonic() + 330
        while not (folder / "told.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
    else:
        told = _run(module, n, folder)
        (folder / "part").write_text(json.dumps(told))
        (folder / "part").rename(folder / "told.json")
    codes, told = json.loads((folder / "told.json").read_text())
    assert codes == [0] * n, "\n".join(told)
    return folder, [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(n)]


def _run(module, n, folder):
    """Exit codes and what was printed."""
    children = [
        subprocess.Popen(
            [sys.executable, "-m", f"tests.integration.{module}", str(folder)],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "NODE_RANK": "0", "OMP_NUM_THREADS": "1", "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(n)
    ]
    # One that failed must not leave the others waiting for it.
    deadline = time.monotonic() + 300
    while any(child.poll() is None for child in children) and time.monotonic() < deadline:
        if any(child.poll() for child in children):
            break
        time.sleep(0.1)
    for child in children:
        if child.poll() is None:
            child.kill()
    told = [child.communicate()[0] for child in children]
    return [child.returncode for child in children], told


@contextmanager
def joined(world_size, store):
    """Make the process group beforehand, so that one launch serves several numbers of processes.

    Lightning uses a group that is there. The file takes the place of a free port.
    """
    rank = int(os.environ["LOCAL_RANK"])
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world_size
    )
    yield
    torch.distributed.destroy_process_group()
