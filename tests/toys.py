"""Tiny tasks and modules for tests that really train.

Every sample carries its number in the last feature, which no network looks at: what a training step was
given can then be read off the batch itself. Pool samples are numbered from `POOL_IDS`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lightning_mixcd import Ledger, Pool

# Tests run side by side on few cores, and these models are too small to share.
torch.set_num_threads(1)

N_FEATURES, N_CLASSES = 4, 3
N_POOL, N_FINETUNE = 60, 40
POOL_IDS = 1000

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
}


def task(n: int, *, seed: int, first_id: int = 0) -> TensorDataset:
    """Samples whose class is the largest of three random projections."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, N_FEATURES, generator=generator)
    y = (x @ torch.randn(N_FEATURES, N_CLASSES, generator=generator)).argmax(1)
    return TensorDataset(torch.cat([x, first_id + torch.arange(n).float()[:, None]], 1), y)


@cache
def pool() -> TensorDataset:
    return task(N_POOL, seed=1, first_id=POOL_IDS)


@cache
def finetune() -> TensorDataset:
    return task(N_FINETUNE, seed=2)


class Opening(Dataset[Any]):
    """Opens itself at the first read, as data sets on files do."""

    opened = False

    def __len__(self) -> int:
        return N_POOL

    def __getitem__(self, i: int) -> Any:
        self.opened = True
        return pool()[i]


def network(*, dropout: float = 0.0) -> nn.Sequential:
    return nn.Sequential(nn.Linear(N_FEATURES, 8), nn.Dropout(dropout), nn.Tanh(), nn.Linear(8, N_CLASSES))


@cache
def base_state() -> dict[str, Tensor]:
    """Weights that get most of the pool right, not all: 40 steps of plain Adam."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = network()
        optimizer = torch.optim.Adam(net.parameters(), 0.05)
        x, y = pool().tensors
        for _ in range(40):
            optimizer.zero_grad()
            cross_entropy(net(x[:, :-1]), y).backward()
            optimizer.step()
    return net.state_dict()


class Toy(pl.LightningModule):
    """A classifier as users write them; remembers what its training steps were given."""

    def __init__(self, *, dropout: float = 0.0, lr: float = 0.05, base: bool = True) -> None:
        super().__init__()
        self.net = network(dropout=dropout)
        if base:
            self.net.load_state_dict(base_state())
        self.lr = lr
        self.seen: list[list[int]] = []  # in training steps
        self.with_gradient: list[Tensor] = []  # likewise, and in looks with a gradient; not read in the step
        self.rows_forwarded = 0
        self.net.register_forward_hook(self._count)

    @property
    def differentiated(self) -> list[list[int]]:
        """What the training steps and looks that made a gradient were given."""
        return [ids(x) for x in self.with_gradient]

    def _count(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.rows_forwarded += len(output)

    def features_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        return batch[0], batch[1]

    def outputs(self, loss: Tensor, logits: Tensor) -> Any:
        return {"loss": loss, "logits": logits}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = self.features_and_labels(batch)
        if self.training:
            self.seen.append(ids(x))
        if torch.is_grad_enabled():
            self.with_gradient.append(x.detach().clone())
        logits = self.net(x[:, :-1])
        loss = cross_entropy(logits, y)
        self.log("train_loss", loss)
        return self.outputs(loss, logits)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = self.features_and_labels(batch)
        self.log("val_loss", cross_entropy(self.net(x[:, :-1]), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr)


class LossOnly(Toy):
    """Says nothing of its logits."""

    def outputs(self, loss: Tensor, logits: Tensor) -> Any:
        return loss


def ids(x: Tensor) -> list[int]:
    """Numbers of the samples in a batch of features."""
    return [int(i) for i in x[:, -1].tolist()]


def flat(steps: list[list[int]]) -> list[int]:
    """All samples of some steps, in order."""
    return [i for step in steps for i in step]


def rehearsed(module: Toy) -> list[list[int]]:
    """Pool indices that each training step was given."""
    return [[i - POOL_IDS for i in step if i >= POOL_IDS] for step in module.seen]


def finetuned(module: Toy) -> list[list[int]]:
    """Finetune samples that each training step was given."""
    return [[i for i in step if i < POOL_IDS] for step in module.seen]


class Finetune(pl.LightningDataModule):
    """The new task's datamodule."""

    def __init__(self, *, batch_size: int = 8, shuffle: bool = False, **settings: Any) -> None:
        super().__init__()
        self.settings = {"batch_size": batch_size, "shuffle": shuffle, **settings}

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(finetune(), **self.settings)


class Listed(Logger):
    """Keeps what it is given: (step, values)."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    name = version = None  # type: ignore[assignment]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step or 0, dict(metrics)))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def values(self, name: str) -> list[float]:
        return [row[name] for _, row in self.rows if name in row]


def trainer(*callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    return pl.Trainer(callbacks=list(callbacks), **{**QUIET, "max_epochs": 1, **settings})


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in module.parameters()])


class OnBatchEnd(pl.Callback):
    """Calls a function after every training batch."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.function(trainer, pl_module, outputs, batch)


def plain_readings(state: dict[str, Tensor], data: TensorDataset) -> tuple[Tensor, Tensor]:
    """Correctness and loss of each sample under some weights, the obvious way."""
    with torch.random.fork_rng():
        net = network()
    net.load_state_dict(state)
    x, y = data.tensors
    with torch.no_grad():
        logits = net(x[:, :-1])
    return logits.argmax(1) == y, cross_entropy(logits, y, reduction="none")


def prompt_pool() -> Pool:
    """The pool, such that the strategy learns after every batch."""
    return Pool(pool(), lag=1)


@cache
def ledger() -> Ledger:
    """The base model's record of the pool, made without the code that records one."""
    correct, loss = plain_readings(base_state(), pool())
    return Ledger.from_arrays(correct, loss, label=pool().tensors[1])
