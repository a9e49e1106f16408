"""Running a head on features that no backbone has just made."""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

__all__ = ["Head", "margins_of"]


class Head:
    """The function from features to logits, with the parameters of any moment.

    It is run in eval mode, in float32, and without the hooks of the module.

    Args:
        module: The live submodule, which is only read.

    Raises:
        TypeError: If its parameters are sharded over processes.

    Example:
        >>> live = nn.Linear(2, 3)
        >>> head = Head(live)
        >>> torch.equal(head(torch.ones(1, 2), head.parameters()), live(torch.ones(1, 2)))
        True
    """

    def __init__(self, module: nn.Module) -> None:
        if any(isinstance(parameter, DTensor) for parameter in module.parameters()):
            raise TypeError(
                "The head must be whole on every process, but its parameters are sharded. Train with DDP, "
                "leave the head out of the sharding, or use MixCD, which needs no head."
            )
        self._live: nn.Module = getattr(module, "_orig_mod", module)
        # Hooks may hold on to the whole model: copies get empty ones.
        hooks = {
            id(value): type(value)()
            for part in self._live.modules()
            for name, value in vars(part).items()
            if name.endswith("hooks") and isinstance(value, dict)
        }
        self._twin = copy.deepcopy(self._live, hooks).float().cpu().eval().requires_grad_(requires_grad=False)

    def parameters(self) -> Tensor:
        """Return a copy of all parameters and buffers of the live head as one vector, float32."""
        own = [value.detach().float().flatten() for value in self._values(self._live).values()]
        return torch.cat(own) if own else torch.zeros(0)

    def __call__(self, features: Tensor, parameters: Tensor) -> Tensor:
        """Return the logits of features.

        Args:
            features: float32, `(n, d)`.
            parameters: What `parameters` returned, on the same device.

        Returns:
            Logits, `(n, C)`.
        """
        own = self._values(self._twin)
        parts = torch.split(parameters, [value.numel() for value in own.values()])
        named = {name: part.view(value.shape) for (name, value), part in zip(own.items(), parts, strict=True)}
        with torch.no_grad():
            logits: Tensor = functional_call(self._twin, named, (features,))
        return logits

    @staticmethod
    def _values(module: nn.Module) -> dict[str, Tensor]:
        values = (*module.named_parameters(), *module.named_buffers())
        return {name: value for name, value in values if value.is_floating_point()}


def margins_of(logits: Tensor, label: Tensor) -> Tensor:
    """Return by how much the logit of the label exceeds all others, `(n,)`."""
    own = label[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(dim=1, keepdim=True)
    return (logits.gather(1, own) - others).flatten()
