"""Go easy on what the base model finds hard."""

from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.functional.flow import flow_weights
from lightning_mixcd.functional.joining import take_rows
from lightning_mixcd.penalties.base import Penalty, Start, Step

__all__ = ["Flow"]


class Flow(Penalty):
    """Weighs each finetune row by how well the base model fits it, `exp(-base loss / tau)`.

    FLOW (Sanyal et al. 2025, arXiv:2502.02797). Needs nothing of the pool and leaves rehearsed rows alone, so
    it goes with any strategy. The base model runs on every finetune batch, one forward per row, because
    batches do not say which samples they hold; its weights are kept.

    Args:
        tau: Temperature. The paper takes the median base loss of the finetune data; None takes that of each
            batch.

    Raises:
        ValueError: If `tau` is not above 0.

    Example:
        >>> from lightning_mixcd import RehearsalCallback, Uniform
        >>> callback = RehearsalCallback(Uniform(), pool=range(1000), penalties=[Flow()])
    """

    needs_look = True

    def __init__(self, tau: float | None = None) -> None:
        if tau is not None:
            check_range("(0, inf]", "None takes the median of each batch.", tau=tau)
        self.tau = tau
        self._base: dict[str, Tensor] = {}

    @override
    def setup(self, start: Start) -> None:
        self._base = start.look.snapshot()

    @override
    def loss(self, step: Step) -> Tensor:
        losses = step.losses("finetune")
        rows = take_rows(step.batch, 0, step.finetune)
        base_loss = step.look.see(rows, weights=self._base).loss
        assert base_loss is not None  # noqa: S101 -- `step.losses` would have complained
        weights = flow_weights(base_loss, self.tau)
        more = ((weights - 1) * losses).nansum()
        # The module's loss is the mean over all rows that have one, where each has the weight 1. A row whose
        # target is no class has none.
        if step.seen_apart is None:
            return more / (~step.losses().isnan()).sum().clamp(min=1)
        return step.finetune / step.rows * more / (~losses.isnan()).sum().clamp(min=1)

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self._base

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._base = state
