"""Reading device tensors without stopping the device."""

import torch
from torch import Tensor

__all__ = ["HostCopy"]


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
