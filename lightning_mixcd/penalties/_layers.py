"""Linear layers and LoRA adapters: what goes through them, and how far their weights have moved."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

__all__ = ["Layer", "adapters", "linear_layers"]


@dataclass
class Layer:
    """One linear layer, or a LoRA adapter of one, with second moments around it.

    Args:
        module: The layer.
        base: Where the weights of a linear layer were, with a trainable bias as last column,
            `(d_out, d_in)`; None for an adapter, which starts at zero.
        inputs: `E[a a']` of its inputs a, `(d_in, d_in)`; with a last input of 1 where there is a bias.
        outputs: `E[g g']` of gradients g at its outputs, `(d_out, d_out)`.
    """

    module: nn.Module
    base: Tensor | None
    inputs: Tensor
    outputs: Tensor

    @classmethod
    def unseen(cls, module: nn.Module) -> "Layer":
        """Take hold of a layer where it is.

        Args:
            module: The layer.

        Returns:
            The layer, with moments of zero.
        """
        bias = getattr(module, "bias", None)
        with_bias = bias is not None and bias.requires_grad
        base = None if adapters(module) else _weights(module, with_bias=with_bias).detach().clone()
        left, right = _factors(module, base)
        d_in = (left if right is None else right).shape[1]
        return cls(module, base, left.new_zeros(d_in, d_in), left.new_zeros(len(left), len(left)))

    def energy(self) -> Tensor:
        """Return `sum(D * (outputs @ D @ inputs))` of the weights' move D, 0-dim, with its graph."""
        left, right = _factors(self.module, self.base)
        inner = self.inputs if right is None else right @ self.inputs @ right.T
        return (left.T @ self.outputs @ left * inner).sum()

    @contextmanager
    def observed(self) -> Iterator[list[int]]:
        """Add up moments of all that passes, for a while.

        Yields:
            Numbers of inputs, one for each call.
        """
        calls: list[int] = []
        hook = partial(self._note, calls)
        handle = self.module.register_forward_hook(hook, with_kwargs=True)
        try:
            yield calls
        finally:
            handle.remove()

    def _note(
        self,
        calls: list[int],
        _module: nn.Module,
        args: tuple[Tensor, ...],
        kwargs: dict[str, Tensor],
        output: Tensor,
    ) -> None:
        given = (*args, *kwargs.values())[0]
        rows = given.detach().flatten(0, -2)
        if len(self.inputs) > rows.shape[1]:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        calls.append(len(rows))
        _add_moment(self.inputs, rows)
        if output.requires_grad:
            of_outputs = partial(_add_moment, self.outputs)
            output.register_hook(of_outputs)  # type: ignore[no-untyped-call]


def linear_layers(module: nn.Module) -> dict[str, nn.Module]:
    """Find the layers whose weights are trained.

    Args:
        module: The model.

    Returns:
        By name, each LoRA adapter, and each `nn.Linear` outside of them whose weight no hook makes.
    """
    found: dict[str, nn.Module] = {}
    inside: tuple[str, ...] = ()
    for name, child in module.named_modules():
        if adapters(child):
            found[name], inside = child, (*inside, f"{name}.")
        elif isinstance(child, nn.Linear) and not name.startswith(inside) and _trained(child):
            found[name] = child
    return found


def adapters(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Return the trained factors of a LoRA layer.

    Args:
        module: Any module. A LoRA layer has `lora_A`, `lora_B` and `scaling`, each by name of the adapter, as
            in `peft`.

    Returns:
        `scaling * B`, `(d_out, r)`, and A, `(r, d_in)`, of each; empty for other modules.
    """
    parts = [getattr(module, name, None) for name in ("lora_A", "lora_B", "scaling")]
    if not all(hasattr(part, "keys") for part in parts):
        return []
    down, up, scaling = cast("list[dict[str, Any]]", parts)
    return [
        (scaling[name] * up[name].weight.float(), down[name].weight.float())
        for name in down.keys()  # noqa: SIM118 -- an `nn.ModuleDict` too
        if isinstance(down[name], nn.Linear) and down[name].weight.requires_grad
    ]


# A weight that a hook makes, as those of the old `nn.utils.weight_norm`, is a plain attribute, with the graph
# of another pass or none. Those of parametrizations are made whenever they are read.
def _trained(linear: nn.Linear) -> bool:
    return linear.weight.requires_grad and "weight" not in vars(linear)


def _weights(module: nn.Module, *, with_bias: bool) -> Tensor:
    linear = cast("nn.Linear", module)
    if not with_bias:
        return linear.weight.float()
    return torch.cat([linear.weight, linear.bias[:, None]], 1).float()


# The move as a product of two matrices, the second of which may be left out.
def _factors(module: nn.Module, base: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if base is not None:
        # As at the start, whatever has been frozen since.
        weight = cast("nn.Linear", module).weight
        return _weights(module, with_bias=base.shape[1] > weight.shape[1]) - base, None
    ups, downs = zip(*adapters(module), strict=True)
    return torch.cat(ups, 1), torch.cat(downs)


@torch.no_grad()
def _add_moment(total: Tensor, values: Tensor) -> None:
    rows = values.flatten(0, -2).float()
    with torch.autocast(rows.device.type, enabled=False):
        total += rows.T @ rows
