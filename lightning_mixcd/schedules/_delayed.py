"""Reading numbers of the device late enough not to wait for it, and always equally late."""

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from lightning_mixcd.data.host_copy import HostCopy

__all__ = ["Delayed"]


class Delayed:
    """Numbers of the device, each read a fixed number of calls after it was noted.

    Args:
        calls: By how many.

    Example:
        >>> delayed = Delayed(2)
        >>> [delayed(torch.tensor(value)) for value in (1.0, 2.0, 3.0, 4.0)]
        [None, None, 1.0, 2.0]
    """

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self._copies: deque[HostCopy] = deque()

    def __call__(self, value: Tensor) -> float | None:
        """Note a number and return the one that was noted `calls` calls ago, if there was one.

        Args:
            value: 0-dim; it must not be changed in place.

        Returns:
            The earlier number.
        """
        self._copies.append(HostCopy(value))
        return _read(self._copies.popleft()) if len(self._copies) > self.calls else None

    def pending(self) -> list[float]:
        """Return what was noted and not read yet, oldest first."""
        return [_read(copy) for copy in self._copies]

    def restore(self, pending: Iterable[float]) -> None:
        """Take over what `pending` returned.

        Args:
            pending: The numbers.
        """
        self._copies = deque(HostCopy(torch.tensor(value, dtype=torch.float64)) for value in pending)


def _read(copy: HostCopy) -> float:
    value = copy.get()
    assert value is not None  # noqa: S101 -- only tensors are noted
    return float(value)
