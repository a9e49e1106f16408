"""An ordinary classifier, that knows nothing of rehearsal."""

from collections import OrderedDict
from itertools import pairwise
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

__all__ = ["Classifier", "cnn", "hidden_layers", "mlp"]


class Classifier(LightningModule):
    """Any network that maps inputs to logits, trained by cross-entropy with Adam.

    Validation accuracy is logged per loader as `val/<name>/accuracy`.

    Args:
        network: From inputs `(B, ...)` to logits `(B, n_classes)`.
        n_classes: Number of classes.
        lr: Learning rate.
        val_names: Names of the validation loaders, in order.

    Example:
        >>> module = Classifier(nn.Linear(4, 2), n_classes=2)
        >>> sorted(module.training_step((torch.zeros(3, 4), torch.zeros(3, dtype=torch.long)), 0))
        ['logits', 'loss']
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        n_classes: int,
        lr: float = 1e-3,
        val_names: tuple[str, ...] = ("new", "prior"),
    ) -> None:
        super().__init__()
        self.network, self.lr, self.val_names = network, lr, tuple(val_names)
        self.accuracy = nn.ModuleDict({
            name: MulticlassAccuracy(n_classes, average="micro", validate_args=False) for name in val_names
        })

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits

    @override
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        x, y = batch
        logits = self(x)
        return {"loss": nn.functional.cross_entropy(logits, y), "logits": logits}

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch
        name = self.val_names[dataloader_idx]
        accuracy = cast("MulticlassAccuracy", self.accuracy[name])
        accuracy.update(self(x), y)
        self.log(f"val/{name}/accuracy", accuracy, add_dataloader_idx=False, prog_bar=True)

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def mlp(*, n_inputs: int, n_classes: int, width: int = 64, n_hidden: int = 1, lr: float = 3e-3) -> Classifier:
    """Make a perceptron.

    Args:
        n_inputs: Inputs per sample, flattened.
        n_classes: Number of classes.
        width: Units of a hidden layer.
        n_hidden: Hidden layers.
        lr: Learning rate.

    Returns:
        The module, with weights from the global generator. Its last layer is the submodule `network.head`.
    """
    hidden = hidden_layers(n_inputs, width, n_hidden)
    head = nn.Linear(width if n_hidden else n_inputs, n_classes)
    return Classifier(_headed(hidden, head), n_classes=n_classes, lr=lr)


def hidden_layers(n_inputs: int, width: int, n_hidden: int) -> nn.Sequential:
    """Make the layers of a perceptron below its head.

    Args:
        n_inputs: Inputs per sample, flattened.
        width: Units of a layer.
        n_hidden: Layers.

    Returns:
        The layers, with weights from the global generator.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise([n_inputs, *n_hidden * [width]]):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def cnn(*, n_inputs: int, n_classes: int, width: int = 16, lr: float = 3e-3) -> Classifier:
    """Make a classifier with two convolutions, for square images of one channel.

    Args:
        n_inputs: Pixels per image.
        n_classes: Number of classes.
        width: Channels of the first convolution.
        lr: Learning rate.

    Returns:
        The module, with weights from the global generator. Its last layer is the submodule `network.head`.
    """
    convolutions = [
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
    ]
    head = nn.Linear(2 * width * (n_inputs // 4), n_classes)
    return Classifier(_headed(nn.Sequential(*convolutions), head), n_classes=n_classes, lr=lr)


def _headed(features: nn.Sequential, head: nn.Linear) -> nn.Sequential:
    return nn.Sequential(OrderedDict(features=features, head=head))
