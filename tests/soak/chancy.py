"""A task that takes chances wherever it can, and every way to rehearse: what a resumed run must repeat."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_mixcd import (
    MIR,
    ClassBalanced,
    DecayedBeta,
    HeadProbe,
    HighestLoss,
    LossProportional,
    MixCD,
    NoRehearsal,
    Oracle,
    PredictedForgetting,
    ScreenDamaged,
    Uniform,
    UniformCorrect,
)
from lightning_mixcd.estimators import LastBatch, RunningMean, Static
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.strategies import Strategy
from tests.toys import Finetune, Toy, finetune

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "none": NoRehearsal,
    "uniform": Uniform,
    "uniform_correct": UniformCorrect,
    "class_balanced": ClassBalanced,
    "mixcd": MixCD,
    "mixcd_wrong_share": lambda: MixCD(wrong_share=0.3),
    "mixcd_decayed": lambda: MixCD(partition=ByLabel(), estimator=DecayedBeta(halflife_steps=3)),
    "mixcd_running": lambda: MixCD(partition=ByLabel(), estimator=RunningMean()),
    "mixcd_last": lambda: MixCD(partition=ByLabel(), estimator=LastBatch()),
    "mixcd_static": lambda: MixCD(partition=ByLabel(), estimator=Static([0.1, 0.2, 0.7])),
    "oracle": lambda: Oracle(every_n_steps=2),
    "loss": LossProportional,
    "highest": HighestLoss,
    "predicted": PredictedForgetting,
    "head_probe": lambda: HeadProbe(candidates_per_row=4, importance=0.5, halflife_steps=3),
    "mir": MIR,
    "screened": ScreenDamaged,
}


def draw() -> float:
    """A number that needs every global source."""
    return float(torch.rand(())) + random.random() + float(np.random.rand())  # noqa: NPY002


class Noisy(Dataset):
    """Random augmentation, as image datasets have it."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        x, y = self.dataset[index]
        return torch.cat([x[:-1] + 0.1 * draw(), x[-1:]]), y


class Chancy(Toy):
    """Takes chances wherever a module can: dropout, transforms on host and device, validation."""

    def __init__(self) -> None:
        super().__init__(dropout=0.3, lr=0.1)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.augment(*batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.augment(*batch)

    def augment(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        noise = 0.1 * draw()  # drawn in validation too, where it must leave no trace
        return torch.cat([x[:, :-1] + noise, x[:, -1:]], 1), y

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        draw()
        super().validation_step(batch, batch_idx)


class ChancyFinetune(Finetune):
    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Noisy(finetune()), **self.settings)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(finetune(), 20, shuffle=True)
