"""The loss scaling of 16-bit training, for gradients that are changed behind the scaler's back."""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from lightning_mixcd.errors import CaptureError

__all__ = ["check_unscaled", "skip_if_not_finite"]


def check_unscaled(optimizer: Optimizer) -> None:
    """Refuse an optimizer that unscales gradients in its own step, after all who would change them.

    Args:
        optimizer: The optimizer.

    Raises:
        CaptureError: If it does.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        raise CaptureError(
            "The optimizer must leave unscaling to the trainer, because penalties change gradients before "
            f"its step, got {type(optimizer).__name__} that unscales within. Make it with fused=False, or "
            'train with precision="bf16-mixed".'
        )


def skip_if_not_finite(scaler: GradScaler, optimizer: Optimizer, gradients: Collection[Tensor]) -> None:
    """Let a scaler skip the step where gradients are not finite any more; nothing waits for the device.

    It has looked at them when it unscaled them, and would not look again.

    Args:
        scaler: The scaler.
        optimizer: Whose step is due.
        gradients: Its gradients, as they are now.
    """
    if gradients:
        largest = torch.stack(torch._foreach_norm([*gradients], torch.inf))  # noqa: SLF001
        for found in scaler._found_inf_per_device(optimizer).values():  # noqa: SLF001 -- there is no other way
            found.add_((~largest.isfinite().all()).to(found))
