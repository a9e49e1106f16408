"""A task that takes chances wherever it can, and every way to rehearse: what a resumed run must repeat."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from lightning_mixcd import Ledger
from lightning_mixcd.estimators import DecayedBeta, LastBatch, RunningMean, Static
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.strategies import (
    ASER,
    MIR,
    Auto,
    ClassBalanced,
    FunctionStrategy,
    GDumbMemory,
    GradientMatching,
    Grasp,
    GSSMemory,
    HeadProbe,
    HerdingMemory,
    HighestLoss,
    LastLayerInfluence,
    LeastConfidence,
    LossProportional,
    MixCD,
    MostSupportive,
    NoRehearsal,
    Oracle,
    PredictedForgetting,
    ProbeMatching,
    ScreenDamaged,
    ScreenHighestLoss,
    ScreenLeastConfidence,
    Strategy,
    Uniform,
    UniformCorrect,
)
from tests.toys import Finetune, Toy, finetune


def any_of_them(n: int, ledger: Ledger, generator: torch.Generator) -> torch.Tensor:
    """A rule of a user's own."""
    return torch.randperm(ledger.size, generator=generator)[:n]


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
    "least_confidence": LeastConfidence,
    "most_supportive": lambda: MostSupportive("loss"),
    "gdumb": lambda: GDumbMemory(20),
    "herding": lambda: HerdingMemory(20),
    "gss": lambda: GSSMemory(20),
    "grasp": Grasp,
    "predicted": PredictedForgetting,
    "head_probe": lambda: HeadProbe(candidates_per_row=4, importance=0.5, halflife_steps=3),
    "probe_matching": lambda: ProbeMatching(candidates_per_row=4, halflife_steps=3),
    "auto": lambda: Auto(HeadProbe(candidates_per_row=4), MixCD()),
    "mir": MIR,
    "screened": ScreenDamaged,
    "screen_highest_loss": ScreenHighestLoss,
    "screen_least_confidence": ScreenLeastConfidence,
    "gradient_matching": GradientMatching,
    "last_layer_influence": LastLayerInfluence,
    "aser": ASER,
    "own_rule": lambda: FunctionStrategy(any_of_them),
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
