"""A second attention beside a model's own, through the attention interface of `transformers`."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

__all__ = ["Branch", "attach"]

PREFIX = "diki_"
BRANCH = "_diki_branch"


class Branch(nn.Module):
    """Keys and values of all tasks for one attention layer; those of the newest task are trained.

    Args:
        width: Features of the layer, d.
        length: Keys per task, P.

    Attributes:
        speed: What keys and values are multiplied by where they are used, so that they are learnt as many
            times as fast.
        keys: Of the newest task, over `speed`, `(P, d)`.
        values: Likewise.
        learnt_keys: Of the T - 1 earlier tasks, `(T - 1, P, d)`.
        learnt_values: Likewise.
        task: Which task each row goes by, `(B,)` or `(1,)`, where not in training.
        weight: How much of it, `(B,)` or `(1,)`; None for the model as it was.
    """

    learnt_keys: Tensor
    learnt_values: Tensor

    def __init__(self, width: int, length: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.zeros(length, width))
        self.values = nn.Parameter(torch.zeros(length, width))
        self.speed = 1.0
        self.resize(0)
        self.task: Tensor | None = None
        self.weight: Tensor | None = None

    def resize(self, n_learnt: int) -> None:
        """Make room for earlier tasks.

        Args:
            n_learnt: How many.
        """
        for name in ("keys", "values"):
            current: Tensor = getattr(self, name)
            self.register_buffer(f"learnt_{name}", current.detach().new_zeros(n_learnt, *current.shape))

    def keep(self) -> None:
        """Count the newest task among the earlier ones."""
        keys, values = self._all()
        self.learnt_keys, self.learnt_values = keys.detach(), values.detach()

    def begin(self, generator: torch.Generator, speed: float) -> None:
        """Start a task: keys uniform in [-1, 1), values zero.

        Args:
            generator: Of the keys, on the CPU.
            speed: See above.
        """
        self.speed = speed
        with torch.no_grad():
            self.keys.copy_((2 * torch.rand(self.keys.shape, generator=generator) - 1) / speed)
            self.values.zero_()

    @override
    def forward(self, query: Tensor, scaling: float | None) -> Tensor | None:
        """Attend to the task's keys with a softmax of its own, without a mask.

        Args:
            query: The layer's own, `(B, H, L, d / H)`.
            scaling: Of the scores; by default one over the root of d / H.

        Returns:
            What is added, `(B, L, H, d / H)`; None for nothing.
        """
        if self.training:
            keys, values = self.speed * self.keys[None], self.speed * self.values[None]
        elif self.weight is None or self.task is None:
            return None
        else:
            keys, values = (x[self.task] for x in self._all())
        n_heads, size = query.shape[1], query.shape[-1]
        keys, values = (
            x.to(query).reshape(*x.shape[:-1], n_heads, size).transpose(1, 2) for x in (keys, values)
        )
        scores = query @ keys.transpose(-1, -2) * (size**-0.5 if scaling is None else scaling)
        output: Tensor = (scores.softmax(-1) @ values).transpose(1, 2)
        if self.training or self.weight is None:
            return output
        return self.weight.to(output)[:, None, None, None] * output

    def _all(self) -> tuple[Tensor, Tensor]:
        """Return keys and values of all tasks, `(T, P, d)` each."""
        return (
            torch.cat([self.learnt_keys, self.speed * self.keys[None]]),
            torch.cat([self.learnt_values, self.speed * self.values[None]]),
        )


def attach(module: nn.Module, branch: Branch) -> None:
    """Put a branch beside the attention of a module.

    Args:
        module: Asks the attention interface of `transformers`; the branch does not become a submodule of it.
        branch: The branch.
    """
    object.__setattr__(module, BRANCH, branch)
    config: Any = module.config
    if not config._attn_implementation.startswith(PREFIX):  # noqa: SLF001 -- its only name
        config._attn_implementation = _registered(config._attn_implementation)  # noqa: SLF001


# Under a name of its own, so that nothing changes for models that keep theirs.
def _registered(name: str) -> str:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    own = ALL_ATTENTION_FUNCTIONS.get(name)  # none is there for "eager", which each model has for itself
    AttentionInterface.register(PREFIX + name, partial(_attend, own))
    if name in ALL_MASK_ATTENTION_FUNCTIONS:
        AttentionMaskInterface.register(PREFIX + name, ALL_MASK_ATTENTION_FUNCTIONS[name])
    return PREFIX + name


def _attend(
    own: Callable[..., tuple[Tensor, Tensor | None]] | None,
    module: nn.Module,
    query: Tensor,
    *rest: object,
    scaling: float | None = None,
    **settings: object,
) -> tuple[Tensor, Tensor | None]:
    own = own or sys.modules[type(module).__module__].eager_attention_forward
    output, weights = own(module, query, *rest, scaling=scaling, **settings)
    branch: Branch | None = getattr(module, BRANCH, None)
    added = None if branch is None else branch(query, scaling)
    return (output if added is None else output + added), weights
