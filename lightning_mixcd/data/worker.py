"""Reading the pool ahead of its loader."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader

__all__ = ["in_worker"]

T = TypeVar("T")


def in_worker(function: Callable[[], T], num_workers: int) -> T:
    """Call a function that reads the pool, outside of this process if loader workers are to read it later.

    They begin as copies of this process. A data set that opens its file at the first read would have opened
    it here, and all of them would move the one offset of that file.

    Args:
        function: The function; what it returns must pickle.
        num_workers: Loader workers of the pool; with 0 the function is called here.

    Returns:
        What the function returned.

    Example:
        >>> in_worker(lambda: len("abc"), 0)
        3
    """
    if not num_workers:
        return function()
    (result,) = DataLoader(
        [function],  # type: ignore[arg-type]  # a list is a map-style data set
        batch_size=None,
        collate_fn=_called,
        num_workers=1,
        # Without its own generator the loader would take a seed from the global one.
        generator=torch.Generator(),
    )
    return result  # type: ignore[no-any-return]


def _called(function: Any) -> Any:  # noqa: ANN401 -- not the list that torch has in mind
    return function()
