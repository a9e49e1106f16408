"""A spring that is stiff where the base model's answers depend on the parameter."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.penalties._anchored import IMPORTANCE, Anchored
from lightning_mixcd.penalties._gradients import Labels, check_rows, log_likelihood, mean_over_rows
from lightning_mixcd.penalties.base import Start

__all__ = ["EWC"]


class EWC(Anchored):
    """Adds `strength/2 * sum(F * (w - w_base)^2)`, with F the diagonal of the Fisher information.

    `F = E[(d log p(y|x) / dw)^2]`: the mean over random pool rows x, one at a time, of the squared gradient
    at the base model's weights. Elastic weight consolidation, Kirkpatrick et al. 2017, arXiv:1612.00796;
    online, Schwarz et al. 2018, arXiv:1805.06370. Parameters that are frozen at the start of `fit` are not
    held later on.

    Args:
        strength: Strength. F is a mean, not a sum, and of log-likelihoods in nats; values of other
            implementations do not carry over.
        n_samples: Pool rows that F is estimated from.
        labels: Which y: "sampled" from the model's own distribution, without bias; "all" of them, weighed by
            it, exact for a row and a backward for each class; "true", the empirical Fisher information, which
            needs no logits; "predicted".
        previous: For the second and later stages of a chain: `state_dict()` of the stage before. Then F is
            `decay * F_previous + F`, and w_base where this stage starts.
        decay: How much of the earlier stages' F is kept, in [0, 1].

    Raises:
        ValueError: If a number is out of range; at the start of `fit`, if the pool is too small, the
            training step does not put out what is needed, or gradients are not finite or all 0.

    Example:
        >>> from lightning_mixcd import RehearsalCallback
        >>> from lightning_mixcd.strategies import NoRehearsal
        >>> callback = RehearsalCallback(NoRehearsal(), pool=range(1000), penalties=[EWC(n_samples=500)])
    """

    needs_samples = True
    needs_look = True

    def __init__(
        self,
        strength: float = 10.0,
        *,
        n_samples: int = 200,
        labels: Labels = "sampled",
        previous: Mapping[str, Tensor] | None = None,
        decay: float = 1.0,
    ) -> None:
        super().__init__()
        check_range("[0, inf)", "0 means no penalty.", strength=strength)
        check_rows(n_samples, labels)
        check_range("[0, 1]", "1 keeps all of the earlier stages.", decay=decay)
        self.strength, self.n_samples, self.labels = strength, n_samples, labels
        self.previous, self.decay = previous or {}, decay

    @override
    def setup(self, start: Start) -> None:
        of_label = partial(log_likelihood, labels=self.labels)
        fisher = mean_over_rows(
            start, self.n_samples, of_label, measure=torch.square, title="Fisher information"
        )
        for name, before in self._earlier(fisher).items():
            fisher[name].add_(before.to(fisher[name]), alpha=self.decay)
        self.hold(fisher)

    def _earlier(self, fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
        before = {name: self.previous.get(f"{IMPORTANCE}{name}") for name in fisher}
        shared = {name: values for name, values in before.items() if values is not None}
        for name, values in shared.items():
            if values.shape != fisher[name].shape:
                raise ValueError(
                    f"`previous` must fit the model, got values for {name!r} of shape {tuple(values.shape)} "
                    f"where the parameter has {tuple(fisher[name].shape)}. Leave them out of `previous`."
                )
        if self.previous and not shared:
            raise ValueError(
                f"`previous` must fit the model, got {[*self.previous][:3]}..., which name no parameter that "
                "is trained. Pass the `state_dict()` of the earlier stage's `EWC`."
            )
        return shared
