"""Weights that go easy on what the base model finds hard."""

import torch
from torch import Tensor

__all__ = ["flow_weights"]


def flow_weights(base_loss: Tensor, tau: float | Tensor | None = None) -> Tensor:
    """Weigh finetune samples by how well the base model fits them, `exp(-base loss / tau)`.

    FLOW (Sanyal et al. 2025, arXiv:2502.02797). The weights are not made to add up to anything.

    Args:
        base_loss: Loss of each sample under the base model, in nats, `(B,)`; below 0, where that of a
            density may be, it counts as 0.
        tau: Temperature, above 0; None for the median of these samples, as the paper takes it of all.

    Returns:
        Weights in [0, 1], `(B,)`; 0 for a sample whose base loss is NaN.

    Example:
        >>> flow_weights(torch.tensor([0.0, 0.5, 1.0]))
        tensor([1.0000, 0.3679, 0.1353])
    """
    base_loss = base_loss.clamp(min=0)
    if tau is None:
        # Where the base model fits half of the samples perfectly, only these count.
        tau = base_loss.nanmedian().clamp(min=torch.finfo(base_loss.dtype).tiny)
    return torch.exp(-base_loss / tau).nan_to_num(nan=0.0)
