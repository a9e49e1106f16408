"""A small vision Transformer."""

import math

from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.tasks.classifier import Classifier

__all__ = ["vit"]


def vit(
    *,
    n_inputs: int,
    n_classes: int,
    patch: int = 7,
    width: int = 64,
    n_layers: int = 4,
    n_heads: int = 4,
    lr: float = 1e-3,
) -> Classifier:
    """Make a vision Transformer of `transformers`, for square images of one channel.

    Args:
        n_inputs: Pixels per image.
        n_classes: Number of classes.
        patch: Pixels per side of a patch, which divide those of the image.
        width: Features of each layer.
        n_layers: Layers.
        n_heads: Heads of each layer's attention, which divide the width.
        lr: Learning rate.

    Returns:
        The module, with weights from the global generator. Its last layer is `network.model.classifier`.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    config = AutoConfig.for_model(
        "vit",
        hidden_size=width,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        intermediate_size=2 * width,
        image_size=math.isqrt(n_inputs),
        patch_size=patch,
        num_channels=1,
        num_labels=n_classes,
    )
    network = AutoModelForImageClassification.from_config(config)  # type: ignore[no-untyped-call]
    return Classifier(_Logits(network), n_classes=n_classes, lr=lr)


class _Logits(nn.Module):
    """Puts out logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x).logits
        return logits
