"""Moving tensors from and to the device without stopping it."""

import torch
from torch import Tensor

__all__ = ["HostCopy", "to_device"]


class HostCopy:
    """A tensor on its way to the host: the copy starts now and is waited for only by whoever reads it.

    Args:
        source: The tensor; it must not be changed in place until the copy was read. None stays None.

    Example:
        >>> HostCopy(torch.ones(2)).get()
        tensor([1., 1.])
    """

    def __init__(self, source: Tensor | None) -> None:
        self.source = source
        self._ready: torch.cuda.Event | None = None
        if source is None or source.device.type == "cpu":
            self._copy = source
        elif source.device.type == "cuda":
            self._copy = torch.empty_like(source, device="cpu", pin_memory=True)
            self._copy.copy_(source, non_blocking=True)
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record()
        else:
            self._copy = source.cpu()

    def get(self) -> Tensor | None:
        """Return the tensor on the CPU, waiting for the copy if it is not there yet."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._copy


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Send a tensor from the host to the device; nothing waits for it.

    Args:
        tensor: The tensor, on the CPU or there already.
        device: Where to.

    Returns:
        It, or its copy there.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
