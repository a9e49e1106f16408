"""Records that pass between layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor
from torch.utils.data import Dataset

__all__ = ["AnyDataset", "Outcome", "PoolRows"]

# With `Dataset[Any]`, LightningCLI finds no parameters of a dataset named in a config file.
if TYPE_CHECKING:
    AnyDataset: TypeAlias = Dataset[Any]
else:
    AnyDataset = Dataset


@dataclass(frozen=True)
class Outcome:
    """What training steps revealed about the rehearsed samples.

    Read from the forward passes that trained them, before the update of each step.

    Args:
        index: Pool indices, int64, `(R,)`.
        correct: Whether the model got each sample right, bool, `(R,)`.
        loss: Loss of each sample in nats, float, `(R,)`; None where only correctness is known.
        logits: Logits of each sample, `(R, C)`; None where no strategy needs them.
        features: Input of the head for each sample, `(R, d)`; None where no strategy needs it.
        context: What the strategy looked up for these rows when it drew them, each `(R, ...)`;
            see `Strategy.context`.
        steps: Optimizer steps since the last outcome; a fraction under gradient accumulation.

    Example:
        >>> import torch
        >>> outcome = Outcome(torch.tensor([3, 8]), torch.tensor([True, False]))
        >>> int((~outcome.correct).sum())
        1
    """

    index: Tensor
    correct: Tensor
    loss: Tensor | None = None
    context: Mapping[str, Tensor] = field(default_factory=dict)
    steps: float = 1.0
    logits: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class PoolRows:
    """Pool rows in a batch of their own, for the module's `rehearsal_step`.

    It is a batch like any other: rows can be counted and taken.

    Args:
        batch: Their batch, as the module gets it.
    """

    batch: object
