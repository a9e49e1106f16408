"""Two tasks on one trunk, each with a head of its own."""

from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from lightning_mixcd.tasks.classifier import hidden_layers

__all__ = ["TwoHeads"]

Batch = tuple[Tensor, Tensor]


class TwoHeads(LightningModule):
    """A perceptron with a head for the new task and one for the prior task, trained with Adam.

    `training_step` is that of the new task, `rehearsal_step` that of the prior one; classes of both are
    numbered from 0. Validation accuracy is logged per loader, the new task's first, as
    `val/<name>/accuracy`.

    Args:
        n_inputs: Inputs per sample, flattened.
        n_new: Classes of the new task.
        n_prior: Classes of the prior task.
        width: Units of a hidden layer.
        n_hidden: Hidden layers, which both tasks share.
        lr: Learning rate.

    Example:
        >>> module = TwoHeads(n_inputs=4, n_new=2, n_prior=3)
        >>> batch = torch.zeros(5, 4), torch.zeros(5, dtype=torch.long)
        >>> module.training_step(batch, 0)["logits"].shape, module.rehearsal_step(batch)["logits"].shape
        (torch.Size([5, 2]), torch.Size([5, 3]))
    """

    def __init__(
        self,
        *,
        n_inputs: int,
        n_new: int,
        n_prior: int,
        width: int = 64,
        n_hidden: int = 1,
        lr: float = 3e-3,
    ) -> None:
        super().__init__()
        self.trunk, self.lr = hidden_layers(n_inputs, width, n_hidden), lr
        n_classes = {"new": n_new, "prior": n_prior}
        features = width if n_hidden else n_inputs
        self.heads = nn.ModuleDict({name: nn.Linear(features, n) for name, n in n_classes.items()})
        self.accuracy = nn.ModuleDict({
            name: MulticlassAccuracy(n, average="micro", validate_args=False) for name, n in n_classes.items()
        })

    @override
    def forward(self, x: Tensor, task: str) -> Tensor:
        logits: Tensor = self.heads[task](self.trunk(x))
        return logits

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        return self._step(batch, "new")

    def rehearsal_step(self, batch: Batch) -> dict[str, Tensor]:
        """Make the step of the prior task.

        Args:
            batch: Samples of the prior task, and their classes.

        Returns:
            Loss and logits.
        """
        return self._step(batch, "prior")

    def _step(self, batch: Batch, task: str) -> dict[str, Tensor]:
        x, y = batch
        logits = self(x, task)
        return {"loss": nn.functional.cross_entropy(logits, y), "logits": logits}

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        x, y = batch
        task = ("new", "prior")[dataloader_idx]
        accuracy = cast("MulticlassAccuracy", self.accuracy[task])
        accuracy.update(self(x, task), y)
        self.log(f"val/{task}/accuracy", accuracy, add_dataloader_idx=False, prog_bar=True)

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)
