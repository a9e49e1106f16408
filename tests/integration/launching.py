"""Several processes on the CPU, each of which writes down what it saw."""

import json
import os
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import torch

from tests.processes import start

N_BATCHES = 5


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
    printed = [folder / f"printed{rank}" for rank in range(n)]
    children = [
        start(
            _main,
            module,
            folder,
            folder=Path(__file__).parents[2],
            printed=[printed[rank]] * 2,
            environment={"NODE_RANK": "0", "LOCAL_RANK": str(rank)},
        )
        for rank in range(n)
    ]
    # One that failed must not leave the others waiting for it.
    deadline = time.monotonic() + 300
    while any(child.is_alive() for child in children) and time.monotonic() < deadline:
        if any(child.exitcode for child in children):
            break
        time.sleep(0.1)
    for child in children:
        child.kill()
        child.join()
    return [child.exitcode for child in children], [path.read_text() for path in printed]


def _main(module, folder):
    torch.set_num_threads(1)
    import_module(f"tests.integration.{module}").main(folder)


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


def alike(rank, n):
    """Eight finetune samples a step, shared out evenly."""
    return [list(range(8 * b + rank, 8 * b + 8, n)) for b in range(N_BATCHES)]


def unlike(rank):
    """One finetune sample a step on the first process, three on the second: it rehearses more often."""
    return [[b] if rank == 0 else [10 + 3 * b, 11 + 3 * b, 12 + 3 * b] for b in range(N_BATCHES)]
