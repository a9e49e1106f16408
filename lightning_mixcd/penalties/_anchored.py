"""Distance to the base model's parameters."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from typing_extensions import override

from lightning_mixcd.penalties.base import Apart, Penalty

__all__ = ["IMPORTANCE", "Anchored"]

ANCHOR, IMPORTANCE = "anchor.", "importance."


class Anchored(Penalty):
    """Pulls parameters to their anchors: `1/2 * sum(strength * importance * (parameter - anchor)^2)`.

    Its gradient is added to gradients, not the term to the loss: that needs no graph, costs the same under
    gradient accumulation and mixed precision, and works on sharded parameters.

    Attributes:
        strength: That of all parameters, unless `strength_of` says otherwise.
        parameters: The model's, by name.
        anchors: What they are pulled to; those without an anchor are free.
        importances: Factors of the same shape; none for 1 everywhere.
    """

    strength: float

    def __init__(self) -> None:
        self.parameters: dict[str, nn.Parameter] = {}
        self.anchors: dict[str, Tensor] = {}
        self.importances: dict[str, Tensor] = {}

    def strength_of(self, name: str) -> float:  # noqa: ARG002 -- one for all
        """Return the strength for the parameter `name`."""
        return self.strength

    def hold(self, importances: Mapping[str, Tensor]) -> None:
        """Anchor parameters where they are.

        Args:
            importances: By name of each.
        """
        for name, importance in importances.items():
            parameter = self.parameters[name].detach()
            self.anchors[name] = parameter.clone()
            self.importances[name] = importance.to(_wide(parameter).dtype)

    @override
    def attach(self, module: nn.Module) -> None:
        self.parameters, self.anchors, self.importances = dict(module.named_parameters()), {}, {}

    @override
    @torch.no_grad()
    def change_gradients(
        self, gradients: Mapping[str, Tensor], apart: Sequence[Apart], total: Callable[[Tensor], Tensor]
    ) -> None:
        names = [name for name in gradients if name in self.anchors]
        if names:
            pulls = self._weighed(names, self._distances(names))
            torch._foreach_add_([gradients[name] for name in names], pulls)

    @override
    @torch.no_grad()
    def metrics(self) -> Mapping[str, Tensor]:
        names = list(self.anchors)
        if not names:
            return {}
        pulls = self._weighed(names, self._distances(names))
        pairs = zip(self._distances(names), pulls, strict=True)
        return {"loss": torch.stack([_whole((d.float() * p.float()).sum()) for d, p in pairs]).sum() / 2}

    @override
    def state_dict(self) -> dict[str, Tensor]:
        anchors = {f"{ANCHOR}{name}": _whole(anchor) for name, anchor in self.anchors.items()}
        return anchors | {f"{IMPORTANCE}{name}": _whole(values) for name, values in self.importances.items()}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for prefix, values in ((ANCHOR, self.anchors), (IMPORTANCE, self.importances)):
            for name, parameter in self.parameters.items():
                if prefix + name in state:
                    values[name] = _sharded_like(parameter, state[prefix + name])

    def _distances(self, names: Sequence[str]) -> list[Tensor]:
        now: list[Tensor] = [self.parameters[name] for name in names]
        distances = torch._foreach_sub(now, [self.anchors[name] for name in names])  # noqa: SLF001
        return [_wide(distance) for distance in distances]

    # Changes the distances.
    def _weighed(self, names: Sequence[str], distances: list[Tensor]) -> list[Tensor]:
        if self.importances:
            torch._foreach_mul_(distances, [self.importances[name] for name in names])
        torch._foreach_mul_(distances, [self.strength_of(name) for name in names])
        return distances


# Strengths and importances are outside of what float16 can hold.
def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.float16 else values


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _sharded_like(parameter: Tensor, values: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor):
        return values
    return distribute_tensor(values, parameter.device_mesh, parameter.placements)
