"""What DIKI keeps in a chain of image tasks, beside full finetuning with and without rehearsal.

A small vision Transformer learns the digits of MNIST, then those turned by 90 degrees, then clothes, then the
digits of USPS, which the first model can read to some part already: as long as they are still to come, they
are the unseen data. All on the same ten outputs. Which gate is in force matters for DIKI's answers, not for
its training, so one training run serves all of its rows.

    python benchmarks/diki_chain.py DATA/images28 --seeds 3
"""

import argparse
import copy
import json
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixcd import RehearsalCallback, Uniform, union_pool
from lightning_mixcd.adapters import DIKI
from lightning_mixcd.functional.task_matrix import final_accuracy, mean_accuracy, transfer_accuracy
from lightning_mixcd.tasks import image_task, vit

TASKS: dict[str, dict[str, Any]] = {
    "mnist": {},
    "mnist, turned": {"archive": "mnist", "shift": "rot90"},
    "fashion_mnist": {},
    "usps": {},
}
N_TRAIN, N_TEST, MIX_RATIO = 2500, 500, 0.125
METHODS: dict[str, tuple[type[Uniform] | None, dict[str, Any] | None]] = {
    "full": (None, None),
    "full, uniform rehearsal": (Uniform, None),
    "DIKI": (None, {}),
    "DIKI, head trained": (None, {"heads": None}),
    "DIKI, head trained, uniform rehearsal": (Uniform, {"heads": None}),
}
GATES: dict[str, dict[str, bool]] = {
    "gate of the paper": {},
    "its vote per batch": {"vote": True},
    "calibrated gate": {"calibrated": True},
}
QUIET: dict[str, Any] = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}
Sets = dict[str, tuple[TensorDataset, TensorDataset]]


def load(folder: Path) -> Sets:
    """Read the first samples of each task."""
    found = {}
    for name, settings in TASKS.items():
        task = image_task(folder / f"{settings.get('archive', name)}.npz", shift=settings.get("shift"))
        parts = ((task.train, N_TRAIN), (task.val, N_TEST))
        train, test = (TensorDataset(*(x[:n] for x in part.tensors)) for part, n in parts)
        found[name] = train, test
    return found


def measure(module: LightningModule, sets: Sets) -> list[float]:
    """Return the accuracy on each task, in batches of 100."""
    module.eval()
    with torch.no_grad():
        right = [
            torch.cat([module(x).argmax(1) == y for x, y in DataLoader(test, 100)]).float().mean().item()
            for _, test in sets.values()
        ]
    module.train()
    return right


def fit(module: LightningModule, train: TensorDataset, epochs: int, *callbacks: Callback) -> None:
    """Train for some epochs."""
    loader = DataLoader(train, 64, shuffle=True)
    Trainer(max_epochs=epochs, callbacks=[*callbacks], **QUIET).fit(module, loader)


def chain(method: str, base: LightningModule, sets: Sets, seed: int, epochs: int) -> dict[str, Any]:
    """Learn the later tasks one after the other; return the matrices, and what was trained in how long."""
    make, settings = METHODS[method]
    names, module = [*sets], copy.deepcopy(base)
    gates = {method: {}} if settings is None else {f"{method}, {gate}": way for gate, way in GATES.items()}
    rows = {label: [measure(module, sets)] for label in gates}
    seconds, trained = 0.0, sum(p.numel() for p in module.parameters())
    for stage, name in enumerate(names[1:], start=1):
        callbacks: list[Callback] = []
        if make is not None:
            pool, _ = union_pool({earlier: sets[earlier][0] for earlier in names[:stage]})
            callbacks.append(RehearsalCallback(make(), pool=pool, mix_ratio=MIX_RATIO, seed=seed))
        if settings is not None:
            callbacks.append(DIKI(name, length=32, speed=50, **settings))
        seed_everything(seed, verbose=False)
        start = time.process_time()
        fit(module, sets[name][0], epochs, *callbacks)
        seconds += time.process_time() - start
        for label, way in gates.items():
            if settings is not None:
                pools: Any = module.mixcd_diki
                pools.vote, pools.calibrated = way.get("vote", False), way.get("calibrated", False)
                trained = callbacks[-1].trainable_parameters
            rows[label].append(measure(module, sets))
    return {label: {"rows": found, "seconds": seconds, "trained": trained} for label, found in rows.items()}


def scores(rows: list[list[float]]) -> dict[str, float]:
    """Boil a matrix down, in %."""
    matrix = torch.tensor(rows)
    found = {
        "first task": matrix[1:, 0].mean(),
        "unseen digits": matrix[1:-1, -1].mean(),
        "when learnt": matrix.diagonal()[1:].mean(),
        "Transfer": transfer_accuracy(matrix),
        "Avg": mean_accuracy(matrix),
        "Last": final_accuracy(matrix),
    }
    return {name: 100 * float(value) for name, value in found.items()}


def table(runs: list[dict[str, Any]]) -> str:
    """Return a Markdown table: mean over seeds, and standard deviation."""
    labels = [*dict.fromkeys(label for run in runs for label in run)]
    columns = [*scores(runs[0][labels[0]]["rows"])]
    lines = [
        "| method | trained | " + " | ".join(columns) + " | seconds |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for label in labels:
        found = [run[label] for run in runs if label in run]
        cells = []
        for column in columns:
            values = [scores(one["rows"])[column] for one in found]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            cells.append(f"{statistics.fmean(values):.1f} ± {spread:.1f}")
        seconds = statistics.fmean(one["seconds"] for one in found)
        lines.append(f"| {label} | {found[0]['trained']:,} | {' | '.join(cells)} | {seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Run every method for every seed; what is in the folder of results already is not run again."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the archives")
    parser.add_argument("--results", type=Path, default=Path("diki_chain"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--base-epochs", type=int, default=10)
    given = parser.parse_args()
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=UserWarning)
    torch.set_num_threads(1)
    sets, runs = load(given.data), []
    given.results.mkdir(parents=True, exist_ok=True)
    for seed in range(given.seeds):
        seed_everything(seed, verbose=False)
        base, weights = (
            vit(n_inputs=784, n_classes=10, width=48, n_layers=3),
            given.results / f"base_{seed}.pt",
        )
        if not weights.exists():
            fit(base, image_task(given.data / "mnist.npz").train, given.base_epochs)
            torch.save(base.state_dict(), weights)
        base.load_state_dict(torch.load(weights, weights_only=True))
        runs.append({"base model": {"rows": len(sets) * [measure(base, sets)], "seconds": 0.0, "trained": 0}})
        for method in METHODS:
            done = given.results / f"{method}_{seed}.json"
            if not done.exists():
                done.write_text(json.dumps(chain(method, base, sets, seed, given.epochs)))
            runs[-1] |= json.loads(done.read_text())
        print(f"\nafter seed {seed}:\n{table(runs)}", flush=True)


if __name__ == "__main__":
    main()
