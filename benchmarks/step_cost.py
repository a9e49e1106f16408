"""What a training step costs with rehearsal, against plain Lightning on a joined batch of the same size.

All variants train the same network on the same number of rows per step, 64 for finetuning and 16 rehearsed:

* `loop`: a bare PyTorch loop, one loader of joint batches;
* `plain`: the Lightning Trainer, one loader of joint batches;
* `bare`: the least that any mixing of two sources does: the Trainer, a second loader of pool rows drawn with
  equal probabilities, `torch.cat`, and a count of the rows that were got right; written for this one model;
* `uniform`, `mix-cd`: the Trainer with `RehearsalCallback`, rows fetched in the training process;
* `MIR`: the same, with rows chosen by looking at the model: 16 of 64 candidates, by how much a virtual step
  on the finetune rows would raise their loss.

Every variant runs once per round and ratios are taken within a round, so that each compares neighbours in
time. Beside CPU time: operations dispatched to torch per step, and with `--instructions` (needs valgrind and
gcc) instructions per step; both repeat on any machine, whatever else it is doing.

    python benchmarks/step_cost.py
    python benchmarks/step_cost.py --instructions --models mlp convnet
"""

import argparse
import ctypes
import logging
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset, RandomSampler

from lightning_mixcd import MIR, Ledger, MixCD, Pool, RehearsalCallback, Uniform
from lightning_mixcd.strategies import Strategy

FINETUNE, REHEARSED, CANDIDATES, CLASSES, N_POOL = 64, 16, 64, 10, 20_000
WORDS, SHORTEST, LONGEST = 1000, 16, 64
WARM_UP = 10
QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "max_epochs": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "uniform": Uniform,
    "mix-cd": MixCD,
    "MIR": lambda: MIR(candidates_per_row=CANDIDATES // REHEARSED),
}
VARIANTS = ("loop", "plain", "bare", *STRATEGIES)
Batch = dict[str, Tensor]


class Vectors(Dataset[Batch]):
    """Random inputs of one shape, from a small set that comes over and over."""

    collate = None

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        self.rows = rows
        self.x, self.y = torch.randn(400, *shape), torch.randint(CLASSES, (400,))

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Batch:
        return {"x": self.x[index % 400], "labels": self.y[index % 400]}


class Texts(Vectors):
    """Random words, from 16 to 64 to a text; any 64 texts in a row have all lengths."""

    def __init__(self, rows: int, shape: tuple[int, ...]) -> None:
        super().__init__(rows, ())
        self.words = torch.randint(1, WORDS, (400, *shape))

    def __getitem__(self, index: int) -> Batch:
        length = SHORTEST + index * 37 % (LONGEST - SHORTEST + 1)
        return {"input_ids": self.words[index % 400, :length], "labels": self.y[index % 400]}

    @staticmethod
    def collate(rows: list[Batch]) -> Batch:
        """Pad with 0 to the longest."""
        words = nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
        labels = torch.stack([row["labels"] for row in rows])
        return {"input_ids": words, "attention_mask": words.ne(0).long(), "labels": labels}


class Encoder(nn.Module):
    """Six transformer layers over words."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True, dropout=0.0)
        self.words, self.head = nn.Embedding(WORDS, 32), nn.Linear(32, CLASSES)
        self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, `(B, C)`."""
        padding = batch["attention_mask"].eq(0)
        hidden = self.layers(self.words(batch["input_ids"]), src_key_padding_mask=padding)
        return self.head(hidden[:, 0])


class Sequential(nn.Sequential):
    """Layers over `x`."""

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, `(B, C)`."""
        return super().forward(batch["x"])


def convnet() -> nn.Module:
    """Two convolutions and a linear layer."""
    return Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, CLASSES)),
    )


MODELS: dict[str, tuple[type[Vectors], tuple[int, ...], Callable[[], nn.Module]]] = {
    "mlp": (Vectors, (784,), lambda: Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, CLASSES))),
    "convnet": (Vectors, (1, 28, 28), convnet),
    "transformer": (Texts, (LONGEST,), Encoder),
}


class Module(LightningModule):
    """A classifier without any logging of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Return loss and logits."""
        logits = self.network(batch)
        return {"loss": cross_entropy(logits, batch["labels"]), "logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Bare(Module):
    """The same, with pool rows and a count of those it got right."""

    def __init__(self, network: nn.Module, pool: DataLoader[Batch]) -> None:
        super().__init__(network)
        self.pool, self.right = iter(pool), torch.zeros((), dtype=torch.int64)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Append pool rows."""
        rows = next(self.pool)
        return {key: joined(values, rows[key]) for key, values in batch.items()}

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Count."""
        guess = outputs["logits"].detach()[-REHEARSED:].argmax(1)
        self.right += (guess == batch["labels"][-REHEARSED:]).sum()


def joined(first: Tensor, second: Tensor) -> Tensor:
    """Put rows together; shorter texts are padded with 0."""
    if first.ndim == 2 and first.shape[1] != second.shape[1]:
        width = max(first.shape[1], second.shape[1])
        first, second = (nn.functional.pad(x, (0, width - x.shape[1])) for x in (first, second))
    return torch.cat([first, second])


class Clock(Callback):
    """Time of the steps after the warm-up, by default of the CPU; and where to count instructions."""

    def __init__(
        self, counter: ctypes.CDLL | None = None, now: Callable[[], float] = time.process_time
    ) -> None:
        self.counter, self.now = counter, now
        self.seconds = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start after the warm-up."""
        self.start(batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.stop(trainer.num_training_batches)

    def start(self, step: int) -> None:
        """Begin with the first step after the warm-up."""
        if step == WARM_UP:
            self.seconds = self.now()
            if self.counter is not None:
                self.counter.start()

    def stop(self, steps: int) -> None:
        """End behind the last step."""
        if self.counter is not None:
            self.counter.stop()
        self.seconds = (self.now() - self.seconds) / (steps - WARM_UP)


class Operations(TorchDispatchMode):
    """Counts what is dispatched to torch."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and go on."""
        self.n += 1
        return func(*args, **(kwargs or {}))


def run(variant: str, model: str, steps: int, counter: ctypes.CDLL | None = None) -> float:
    """Train for some steps; return seconds of CPU time per step."""
    kind, shape, make = MODELS[model]
    seed_everything(0, verbose=False)
    rows = FINETUNE + REHEARSED if variant in ("loop", "plain") else FINETUNE
    loader = DataLoader(kind(rows * steps, shape), batch_size=rows, collate_fn=kind.collate)
    pool = Pool(kind(N_POOL, shape), collate_fn=kind.collate, pad_values={"input_ids": 0})
    clock = Clock(counter)
    if variant == "loop":
        loop(Module(make()), loader, clock)
        return clock.seconds
    callbacks: list[Callback] = [clock]
    module = Module(make())
    if variant == "bare":
        drawn = RandomSampler(pool.dataset, replacement=True, num_samples=REHEARSED * steps)
        rehearsed = DataLoader(pool.dataset, REHEARSED, sampler=drawn, collate_fn=kind.collate)
        module = Bare(module.network, rehearsed)
    if variant in STRATEGIES:
        ledger = Ledger.from_arrays(correct=torch.rand(N_POOL) < 0.9, loss=torch.rand(N_POOL))
        strategy, ratio = STRATEGIES[variant](), REHEARSED / FINETUNE
        callbacks.append(RehearsalCallback(strategy, pool=pool, ledger=ledger, mix_ratio=ratio))
    trainer = Trainer(callbacks=callbacks, **QUIET)
    trainer.fit(module, loader)
    return clock.seconds


def loop(module: Module, loader: DataLoader[Batch], clock: Clock) -> None:
    """Train without Lightning."""
    optimizer = module.configure_optimizers()
    for step, batch in enumerate(loader):
        clock.start(step)
        optimizer.zero_grad()
        module.training_step(batch, step)["loss"].backward()
        optimizer.step()
    clock.stop(len(loader))


def operations(variant: str, model: str) -> float:
    """Return operations per step, as the difference between two lengths of training."""
    counts = []
    for steps in (24, 48):
        with Operations() as counted:
            run(variant, model, steps)
        counts.append(counted.n)
    return (counts[1] - counts[0]) / 24


HELPER = """#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void stop(void) { CALLGRIND_STOP_INSTRUMENTATION; }
"""


def instructions(variants: tuple[str, ...], models: list[str], steps: int) -> Iterator[str]:
    """Yield a row per model: millions of instructions per step, and what mix-cd has to plain."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "helper.c").write_text(HELPER)
        library = folder / "helper.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, folder / "helper.c"], check=True)
        for model in models:
            counts = {}
            for variant in variants:
                out = folder / f"{variant}.{model}"
                tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
                child = [sys.executable, __file__, "--child", variant, model, str(library)]
                settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
                subprocess.run(
                    [*tool, *child, "--steps", str(steps)], check=True, capture_output=True, env=settings
                )
                parts = [part.read_text() for part in folder.glob(f"{out.name}*")]
                totals = re.findall(r"^(?:summary|totals): (\d+)", "\n".join(parts), flags=re.MULTILINE)
                counts[variant] = max(map(int, totals)) / (steps - WARM_UP) / 1e6
            ratios = " | ".join(f"{counts[v] / counts['plain']:.4f}" for v in variants[1:])
            yield f"| {model} | {' | '.join(f'{counts[v]:.2f}' for v in variants)} | {ratios} |"


def spread(values: list[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(values):.3f} [{min(values):.3f} .. {max(values):.3f}]"


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--instructions", action="store_true", help="count instructions instead of time")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    if arguments.child:
        variant, model, library = arguments.child
        run(variant, model, arguments.steps, ctypes.CDLL(library))
        return
    if arguments.instructions:
        variants = ("plain", "bare", "uniform", "mix-cd")
        print("Millions of instructions per step\n")
        print(f"| model | {' | '.join(variants)} | {' | '.join(f'{v} / plain' for v in variants[1:])} |")
        print(f"|---|{'---|' * (2 * len(variants) - 1)}")
        for row in instructions(variants, arguments.models, arguments.steps):
            print(row, flush=True)
        return
    print(
        f"{FINETUNE} finetune + {REHEARSED} rehearsed rows, {arguments.rounds} rounds, 1 thread, CPU time\n"
    )
    pairs = [
        ("loop", "plain"),
        ("bare", "plain"),
        ("uniform", "plain"),
        ("mix-cd", "plain"),
        ("mix-cd", "bare"),
        ("mix-cd", "uniform"),
        ("MIR", "plain"),
    ]
    print(f"| model | plain step, ms | {' | '.join(f'{a} / {b}' for a, b in pairs)} |")
    print(f"|---|---|{'---|' * len(pairs)}")
    counts = []
    for model in arguments.models:
        rounds = [{v: run(v, model, arguments.steps) for v in VARIANTS} for _ in range(arguments.rounds)]
        plain = statistics.median(r["plain"] for r in rounds) * 1000
        ratios = [spread([r[a] / r[b] for r in rounds]) for a, b in pairs]
        print(f"| {model} | {plain:.1f} | {' | '.join(ratios)} |", flush=True)
        counts.append(f"| {model} | {' | '.join(f'{operations(v, model):.1f}' for v in VARIANTS)} |")
    print(f"\nOperations per step\n\n| model | {' | '.join(VARIANTS)} |\n|---|{'---|' * len(VARIANTS)}")
    print("\n".join(counts))


if __name__ == "__main__":
    main()
