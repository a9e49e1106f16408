"""A spring that is stiff where the base model's outputs move with the parameter."""

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.penalties._anchored import Anchored
from lightning_mixcd.penalties._gradients import check_rows, mean_over_rows
from lightning_mixcd.penalties.base import Start
from lightning_mixcd.protocols import Seen

__all__ = ["MAS"]


class MAS(Anchored):
    """Adds `strength/2 * sum(O * (w - w_base)^2)`, with O how much the base model's logits depend on w.

    `O = E[|d |f(x)|^2 / dw|]`: the mean over random pool rows x, one at a time, of the gradient's magnitude
    at the base model's weights; f are the logits. No labels are used. Memory aware synapses, Aljundi et al.
    2018, arXiv:1711.09601, where the term is twice as large. Parameters that are frozen at the start of `fit`
    are not held later on.

    Args:
        strength: Strength.
        n_samples: Pool rows that O is estimated from.

    Raises:
        ValueError: If a number is out of range; at the start of `fit`, if the pool is too small, the
            training step puts out no logits, or gradients are not finite or all 0.
    """

    needs_samples = True
    needs_look = True

    def __init__(self, strength: float = 0.01, *, n_samples: int = 200) -> None:
        super().__init__()
        check_range("[0, inf)", "0 means no penalty.", strength=strength)
        check_rows(n_samples)
        self.strength, self.n_samples = strength, n_samples

    @override
    def setup(self, start: Start) -> None:
        title = "Importance of parameters"
        self.hold(mean_over_rows(start, self.n_samples, _size, measure=torch.abs, title=title))


def _size(_seed: int, seen: Seen) -> Tensor:
    if seen.logits is None:
        raise ValueError("`MAS` needs logits, and `training_step` gave none. Return them, or use `EWC`.")
    return seen.logits.flatten(1).float().square().sum(1)
