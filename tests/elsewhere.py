"""Another device, played by the CPU: its tensors do not mix with those of the host, nor is there float64.

The former is so on every accelerator, the latter on MPS.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

# Autograd and modules know what to do with tensors there, and nobody computes with them but we.
DEVICE = torch.device("meta")
CPU = torch.device("cpu")
ATEN = torch.ops.aten
INDEXING = {ATEN.index.Tensor, ATEN.index_put.default, ATEN.index_put_.default, ATEN._index_put_impl_.default}


class Elsewhere(Tensor):
    """A tensor on the other device, around the tensor that it is computed with."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.held.detach().clone().__reduce_ex__(protocol)

    def tolist(self) -> Any:
        return self.cpu().tolist()


@contextmanager
def other_device() -> Iterator[SingleDeviceStrategy]:
    """There is another device within; the strategy for a Trainer that trains on it."""
    with _Given(), _Computed(), patch.object(torch, "autocast", _autocast):
        yield SingleDeviceStrategy(device=DEVICE, accelerator=_Accelerator())


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


def _autocast(device_type: str, **settings: Any) -> AbstractContextManager[Any]:
    return nullcontext() if device_type == DEVICE.type else torch.amp.autocast(device_type, **settings)


class _Given(TorchFunctionMode):
    """Numbers of Python would be lost on their way to a device without memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.new_tensor and isinstance(args[0], Elsewhere):
            return torch.tensor(args[1], **{"dtype": args[0].dtype, **kwargs}).to(DEVICE)
        if func in {torch.tensor, torch.as_tensor} and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": CPU}).to(DEVICE)
        return func(*args, **kwargs)


class _Computed(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    copies = func is ATEN.copy_.default
    _refuse_mixed(func, tensors, there, copies=copies)
    goes_there = isinstance(args[0], Elsewhere) if copies else bool(there)
    if kwargs.get("device") is not None:
        goes_there = torch.device(kwargs["device"]) == DEVICE
        kwargs = {**kwargs, "device": CPU}
    known = {id(tensor.held): tensor for tensor in there}  # what is changed in place stays what it is
    found = func(*tree_map_only(Elsewhere, _held, args), **tree_map_only(Elsewhere, _held, kwargs))

    def brought(tensor: Tensor) -> Tensor:
        if id(tensor) in known:
            return known[id(tensor)]
        if goes_there and tensor.dtype == torch.float64:
            raise TypeError(f"There is no float64 on this device, in {func}.")
        return Elsewhere(tensor) if goes_there else tensor

    return tree_map_only(Tensor, brought, found)


# As on CUDA: single numbers may be on the host, and so may indices of what is there.
def _refuse_mixed(func: Any, tensors: list[Tensor], there: list[Elsewhere], *, copies: bool) -> None:
    indexes = func in INDEXING and isinstance(tensors[0], Elsewhere)
    here = [tensor for tensor in tensors if tensor.ndim and not isinstance(tensor, Elsewhere)]
    if there and here and not copies and not indexes:
        raise RuntimeError(f"Expected all tensors to be on the same device, in {func}.")


def _held(tensor: Elsewhere) -> Tensor:
    return tensor.held
