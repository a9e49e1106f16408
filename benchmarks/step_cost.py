"""What a training step costs with rehearsal, against plain Lightning on a joined batch of the same size.

Both sides train the same network on the same number of rows; the plain side gets them from one loader. Every
variant runs once per round and ratios are taken within a round, so that each compares neighbours in time.
Beside CPU time: operations dispatched to torch per step, which repeat to the digit on any machine.

    python benchmarks/step_cost.py            # table of ratios
    python benchmarks/step_cost.py --rounds 5 --steps 50 --models mlp
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixcd import Ledger, MixCD, RehearsalCallback, Uniform

FINETUNE, REHEARSED, CLASSES, POOL = 64, 16, 10, 20_000
WARM_UP = 10


class Module(LightningModule):
    """A classifier without any logging of its own."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Return loss and logits."""
        x, y = batch
        logits = self.network(x)
        return {"loss": nn.functional.cross_entropy(logits, y), "logits": logits}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Encoder(nn.Module):
    """Two transformer layers over a sequence of vectors."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 256, batch_first=True, dropout=0.0)
        self.layers, self.head = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(128, CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits `(B, C)`."""
        return self.head(self.layers(x.view(len(x), -1, 128)).mean(dim=1))


NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "mlp": (784, lambda: nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, CLASSES))),
    "wide mlp": (
        784,
        lambda: nn.Sequential(
            nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)
        ),
    ),
    "transformer": (2048, Encoder),
}


class Clock(Callback):
    """CPU time and dispatched operations of the steps after the warm-up."""

    def __init__(self) -> None:
        self.operations = Operations()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start after the warm-up."""
        if batch_idx == WARM_UP:
            self.start = time.process_time()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop."""
        self.seconds = (time.process_time() - self.start) / (trainer.num_training_batches - WARM_UP)


class Operations(TorchDispatchMode):
    """Counts what is dispatched to torch."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and go on."""
        self.n += 1
        return func(*args, **(kwargs or {}))


def data(rows: int, width: int) -> TensorDataset:
    """Return random samples."""
    return TensorDataset(torch.randn(rows, width), torch.randint(CLASSES, (rows,)))


def run(variant: str, model: str, steps: int) -> float:
    """Train for some steps; return seconds of CPU time per step."""
    width, make = NETWORKS[model]
    seed_everything(0, verbose=False)
    clock, callbacks = Clock(), []
    rows = FINETUNE
    if variant == "plain":
        rows += REHEARSED
    else:
        ledger = Ledger.from_arrays(correct=torch.rand(POOL) < 0.9, loss=torch.rand(POOL))
        strategy = MixCD() if variant == "mix-cd" else Uniform()
        pool = POOLS.setdefault(width, data(POOL, width))
        ratio = REHEARSED / FINETUNE
        callbacks = [RehearsalCallback(strategy, pool=pool, ledger=ledger, mix_ratio=ratio)]
    finetune = FINETUNES.setdefault((rows, width), data(rows * 20, width))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=steps,
        callbacks=[clock, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loader = DataLoader(Repeated(finetune, rows * steps), batch_size=rows)
    trainer.fit(Module(make()), loader)
    return clock.seconds


class Repeated(torch.utils.data.Dataset[Any]):
    """A small set, over and over."""

    def __init__(self, dataset: TensorDataset, rows: int) -> None:
        self.dataset, self.rows = dataset, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index % len(self.dataset)]


POOLS: dict[int, TensorDataset] = {}
FINETUNES: dict[tuple[int, int], TensorDataset] = {}
VARIANTS = ("plain", "uniform", "mix-cd")


def operations(variant: str, model: str) -> float:
    """Return operations per step, as the difference between two lengths of training."""
    counts = []
    for steps in (20, 40):
        with Operations() as counted:
            run(variant, model, steps)
        counts.append(counted.n)
    return (counts[1] - counts[0]) / 20


def spread(values: list[float]) -> str:
    """Return median and range."""
    return f"{statistics.median(values):.3f} [{min(values):.3f} .. {max(values):.3f}]"


def main() -> None:
    """Print a table per model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    print(
        f"{FINETUNE} finetune + {REHEARSED} rehearsed rows, {arguments.rounds} rounds, 1 thread, CPU time\n"
    )
    print(
        "| model | plain step, ms | uniform / plain | mix-cd / plain | mix-cd / uniform | operations a step |"
    )
    print("|---|---|---|---|---|---|")
    for model in arguments.models:
        rounds = [{v: run(v, model, arguments.steps) for v in VARIANTS} for _ in range(arguments.rounds)]
        plain = statistics.median(r["plain"] for r in rounds) * 1000
        ratios = [
            spread([r[a] / r[b] for r in rounds])
            for a, b in (("uniform", "plain"), ("mix-cd", "plain"), ("mix-cd", "uniform"))
        ]
        counts = ", ".join(f"{v} {operations(v, model):.1f}" for v in VARIANTS)
        print(f"| {model} | {plain:.1f} | {' | '.join(ratios)} | {counts} |", flush=True)


if __name__ == "__main__":
    main()
