"""A spring between each parameter and where it started."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.penalties._anchored import Anchored
from lightning_mixcd.penalties.base import Apart, Start

__all__ = ["L2SP"]


class L2SP(Anchored):
    """Adds `alpha/2 * |w - w_base|^2` over trainable parameters, and `beta/2 * |w|^2` over a new head.

    From Li et al. 2018, arXiv:1802.01483, where parameters are called w_S and those of the head w_S-bar. A
    parameter that is unfrozen later is held from then on. Buffers, such as those of batch normalisation, are
    free.

    Args:
        alpha: Strength; see its card for values.
        head: Name of a submodule that the base model did not have; pulled to zero. None if it is all known.
        beta: Strength there.

    Raises:
        ValueError: If a strength is negative; at the start of `fit`, if there are no parameters in `head`.

    Example:
        >>> from lightning_mixcd import MixCD, RehearsalCallback
        >>> callback = RehearsalCallback(MixCD(), penalties=[L2SP(0.01, head="classifier")])
    """

    def __init__(self, alpha: float = 0.01, *, head: str | None = None, beta: float = 0.01) -> None:
        super().__init__()
        check_range("[0, inf)", "0 means no penalty.", alpha=alpha, beta=beta)
        self.alpha, self.head, self.beta = alpha, head, beta

    @override
    def attach(self, module: nn.Module) -> None:
        super().attach(module)
        if self.head is not None and not any(map(self._new, self.parameters)):
            raise ValueError(
                f"`head` must be the name of a submodule with parameters, got {self.head!r}. There are "
                f"{sorted({name.rpartition('.')[0] for name in self.parameters})}."
            )

    @override
    def setup(self, start: Start) -> None:
        self._hold(name for name, parameter in self.parameters.items() if parameter.requires_grad)

    @override
    def change_gradients(
        self, gradients: Mapping[str, Tensor], apart: Sequence[Apart], total: Callable[[Tensor], Tensor]
    ) -> None:
        # What has been frozen so far is where the base model had it.
        self._hold(name for name in gradients if name in self.parameters and name not in self.anchors)
        super().change_gradients(gradients, apart, total)

    @override
    def strength_of(self, name: str) -> float:
        return self.beta if self._new(name) else self.alpha

    def _hold(self, names: Iterable[str]) -> None:
        for name in names:
            parameter = self.parameters[name].detach()
            self.anchors[name] = torch.zeros_like(parameter) if self._new(name) else parameter.clone()

    def _new(self, name: str) -> bool:
        return self.head is not None and name.startswith(f"{self.head}.")
