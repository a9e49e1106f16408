"""Gradients by the weights of the last layer, from one forward."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.protocols import Seen
from lightning_mixcd.strategies._screening import Screening, shown
from lightning_mixcd.strategies.base import Strategy

__all__ = ["LastLayerGradients", "LastLayerScreening", "has_bias"]


@dataclass(frozen=True)
class LastLayerGradients:
    r"""Gradients of single rows, each an outer product of two factors.

    For logits $W h + b$ the gradient of the cross-entropy by $(W, b)$ is the outer product of
    $\text{softmax}(z) - e_y$ and $(h, 1)$.

    Args:
        errors: The first factor, `(n, C)`.
        inputs: The second factor, `(n, d)` or, with a bias, `(n, d + 1)`.
    """

    errors: Tensor
    inputs: Tensor

    @classmethod
    def of(cls, logits: Tensor, label: Tensor, features: Tensor, *, bias: bool) -> "LastLayerGradients":
        """Compute the gradient of each row's cross-entropy by the last layer.

        Args:
            logits: Float, `(n, C)`.
            label: Classes, whole numbers, `(n,)`.
            features: Input of the last layer, float, `(n, d)`.
            bias: Whether the last layer has a bias.

        Returns:
            The gradients; 0 where the target is no class.
        """
        n_classes = logits.shape[1]
        named = (label >= 0) & (label < n_classes)
        target = nn.functional.one_hot(label.long().where(named, 0), n_classes)
        errors = (logits.softmax(dim=1) - target) * named[:, None]
        if bias:
            features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
        return cls(errors, features)

    def products(self, other: "LastLayerGradients") -> Tensor:
        """Return the inner product of each row's gradient with each of the other's, `(n, m)`."""
        return (self.errors @ other.errors.T) * (self.inputs @ other.inputs.T)


def has_bias(head: nn.Module, strategy: object) -> bool:
    """Say whether a head that must be one linear layer has a bias.

    Args:
        head: The head.
        strategy: Who needs it, for messages.

    Returns:
        Whether.

    Raises:
        ValueError: If the head is something else.
    """
    if not isinstance(head, nn.Linear):
        raise ValueError(
            f"The head must be one `nn.Linear` for {type(strategy).__name__}, got {type(head).__name__} of "
            f"{type(head).__module__}. Name the last layer, without a low-rank block: Readout(features=...)."
        )
    return head.bias is not None


class LastLayerScreening(Screening):
    """Chooses by gradients of the last layer.

    Args:
        source: See `Screening`.
        candidates_per_row: See `Screening`.
    """

    needs_features = True
    _bias = True

    def __init__(self, source: Strategy | None = None, *, candidates_per_row: int = 5) -> None:
        super().__init__(source, candidates_per_row=candidates_per_row)

    @override
    def attach(self, head: nn.Module) -> None:
        self._bias = has_bias(head, self)

    def gradients(self, seen: Seen) -> LastLayerGradients:
        """Return the gradient of each row that a look showed, float32."""
        logits, label, features = (shown(seen, name, self) for name in ("logits", "label", "features"))
        return LastLayerGradients.of(logits.float(), label, features.float(), bias=self._bias)
