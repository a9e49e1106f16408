"""Gradients by name as one vector, and back."""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["flat", "overwrite"]


def flat(gradients: Iterable[Tensor]) -> Tensor:
    """Put gradients together.

    Args:
        gradients: Of any shapes, P numbers in all.

    Returns:
        float32, `(P,)`.
    """
    return torch.cat([gradient.detach().flatten().float() for gradient in gradients])


def overwrite(gradients: Iterable[Tensor], vector: Tensor) -> None:
    """Write a vector over gradients.

    Args:
        gradients: What `flat` has put together; changed in place.
        vector: `(P,)`.
    """
    gradients = [*gradients]
    parts = torch.split(vector, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
