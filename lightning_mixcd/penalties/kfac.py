"""A spring that is stiff in the directions of weight space that the base model's answers depend on."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.penalties._gradients import (
    Labels,
    check_rows,
    gradients_of_rows,
    log_likelihood,
    refuse_indifference,
)
from lightning_mixcd.penalties._layers import Layer, adapters, linear_layers
from lightning_mixcd.penalties.base import Apart, Penalty, Start

__all__ = ["KFAC"]

PARAMETRIZE = (
    "`nn.utils.weight_norm` and `spectral_norm` make weights in hooks, those of `nn.utils.parametrizations` "
    "do not."
)


class KFAC(Penalty):
    """Adds `strength/2 * sum(D * (G D A))` for the move D of each linear layer's or LoRA adapter's weights.

    D is `W - W_base`, or `scaling * B A` of an adapter; a trained bias is taken in, as the weight of an input
    that is always 1. `A = E[a a']` over inputs a of the layer and `G = E[g g']` over the gradients g of
    `log p(y|x)` at its outputs, at the base model's weights, from random pool rows x. The Kronecker product
    of the two stands for the Fisher information of the layer: Ritter et al. 2018, arXiv:1805.07810; for
    adapters Chen and Garner 2024, arXiv:2402.12220. Other parameters are free, and so are layers whose weight
    is frozen at the start, made by a hook, as by the old `nn.utils.weight_norm`, or used without a call of
    their forward, as inside `nn.MultiheadAttention`.

    Where a row passes a layer as many vectors, as tokens do, A is the mean over all of them, and G the mean
    over rows of the sum over them.

    Args:
        strength: Strength.
        n_samples: Pool rows that A and G are estimated from.
        labels: Which y, as in `EWC`.

    Raises:
        ValueError: If a number is out of range; at the start of `fit`, if the pool is too small, the training
            step does not put out what is needed, no linear layer is trained, an adapter is not at zero, or
            gradients are not finite or all 0.
    """

    needs_samples = True
    needs_look = True

    def __init__(self, strength: float = 10.0, *, n_samples: int = 200, labels: Labels = "sampled") -> None:
        check_range("[0, inf)", "0 means no penalty.", strength=strength)
        check_rows(n_samples, labels)
        self.strength, self.n_samples, self.labels = strength, n_samples, labels
        self._layers: dict[str, Layer] = {}
        self._module = nn.Module()

    @override
    def attach(self, module: nn.Module) -> None:
        self._module, self._layers = module, {}

    @override
    def setup(self, start: Start) -> None:
        modules = linear_layers(start.module)
        if not modules:
            raise ValueError(
                "`KFAC` holds linear layers, and none is trained, or hooks make their weights. "
                f"{PARAMETRIZE} Or use `EWC` or `L2SP`."
            )
        for name, module in modules.items():
            if any(up.any() for up, _ in adapters(module)):
                raise ValueError(
                    f"LoRA adapters must start at zero under `KFAC`, got {name!r} that does not. Merge it "
                    "into the base model first; with peft: `merge_and_unload()`."
                )
        layers = {name: Layer.unseen(module) for name, module in modules.items()}
        of_label = partial(log_likelihood, labels=self.labels)
        with ExitStack() as stack:
            calls = [stack.enter_context(layer.observed()) for layer in layers.values()]
            for _ in gradients_of_rows(start, self.n_samples, of_label, title="Kronecker factors"):
                pass
        for layer, numbers in zip(layers.values(), calls, strict=True):
            n_inputs = start.total(layer.inputs.new_tensor(float(sum(numbers))))
            layer.inputs = start.total(layer.inputs) / n_inputs.clamp(min=1)
            layer.outputs = start.total(layer.outputs) / self.n_samples
        self._layers = layers
        held = tuple(f"{name}." for name in layers)
        parts = start.module.named_modules()
        if free := [name for name, part in parts if not f"{name}.".startswith(held) and _maps(part)]:
            warnings.warn(
                f"`KFAC` leaves {free[:4]} free, {len(free)} in all: it holds what is an `nn.Linear` and is "
                "called as one, which layers of `nn.MultiheadAttention` are not, if its weight is trained "
                f"and no hook makes it. {PARAMETRIZE} `EWC` holds parameters of any use.",
                stacklevel=2,
            )
        refuse_indifference(layer.outputs for layer in layers.values())

    @override
    def change_gradients(
        self, gradients: Mapping[str, Tensor], apart: Sequence[Apart], total: Callable[[Tensor], Tensor]
    ) -> None:
        if not self._layers:
            return
        named = {name: p for name, p in self._module.named_parameters() if name in gradients}
        with torch.enable_grad():
            term = self._term()
        if not term.requires_grad:
            return  # all layers have been frozen since
        pulls = torch.autograd.grad(term, [*named.values()], allow_unused=True)
        for name, pull in zip(named, pulls, strict=True):
            if pull is not None:
                gradients[name].add_(pull)

    @override
    @torch.no_grad()
    def metrics(self) -> Mapping[str, Tensor]:
        return {"loss": self._term()} if self._layers else {}

    @override
    def state_dict(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        for name, layer in self._layers.items():
            state |= {f"inputs.{name}": layer.inputs, f"outputs.{name}": layer.outputs}
            if layer.base is not None:
                state[f"base.{name}"] = layer.base
        return state

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        modules = dict(self._module.named_modules())
        for key, inputs in state.items():
            kind, _, name = key.partition(".")
            if kind == "inputs":
                base, outputs = state.get(f"base.{name}"), state[f"outputs.{name}"]
                self._layers[name] = Layer(modules[name], base, inputs, outputs)

    def _term(self) -> Tensor:
        return self.strength / 2 * torch.stack([layer.energy() for layer in self._layers.values()]).sum()


# Whether it is a linear map of which something is trained, whatever it is called.
def _maps(part: nn.Module) -> bool:
    if isinstance(part, nn.Linear | nn.MultiheadAttention):
        return any(parameter.requires_grad for parameter in part.parameters())
    weight = getattr(part, "weight", None)
    matrix = isinstance(weight, nn.Parameter) and weight.requires_grad and weight.ndim == 2
    return matrix and not isinstance(part, nn.Embedding)
