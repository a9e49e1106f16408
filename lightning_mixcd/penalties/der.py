"""Put out the logits that the base model put out."""

from torch import Tensor
from torch.nn.functional import mse_loss
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.penalties._rehearsed import LOGITS, base_logits, refuse_no_rehearsal
from lightning_mixcd.penalties.base import Penalty, Start, Step

__all__ = ["DER"]


class DER(Penalty):
    r"""Draws the logits of rehearsed rows to those of the base model, instead of learning their labels.

    Dark experience replay (Buzzega et al. 2020, arXiv:2004.07211); DER++ with $\beta > 0$. The loss becomes
    $\mathrm{CE}_B + \alpha \, \mathrm{MSE}(z_R, z_0) + \beta \, \mathrm{CE}_R$ of finetune rows B and
    rehearsed rows R, with the base model's logits $z_0$ from the ledger. Each term is a mean over its rows,
    the squares over classes too. The module's own loss is taken for the mean over all its rows of the
    cross-entropy that is read: what rehearsed rows have in it goes, so leave `rehearsal_weight` at 1.

    Deviations: one draw serves both terms, the authors make two; $z_0$ are those of the base model in eval
    mode, not of the moment at which a sample entered a buffer.

    Args:
        alpha: Weight of the squared distance of logits, 0 or more.
        beta: Weight of the rehearsed rows' labels, 0 or more; the authors' DER++ takes 0.5.

    Raises:
        ValueError: If a number is out of range; at the start of `fit`, if the strategy rehearses nothing.

    Example:
        >>> from lightning_mixcd import RehearsalCallback, Uniform
        >>> callback = RehearsalCallback(Uniform(), pool=range(1000), penalties=[DER(beta=0.5)])
    """

    needs_columns = (LOGITS,)

    def __init__(self, alpha: float = 0.3, *, beta: float = 0.0) -> None:
        check_range("[0, inf)", "0 means no penalty.", alpha=alpha, beta=beta)
        self.alpha, self.beta = alpha, beta

    @override
    def setup(self, start: Start) -> None:
        refuse_no_rehearsal(self, start)

    @override
    def loss(self, step: Step) -> Tensor | None:
        if not step.rehearsed:
            return None
        logits, losses = step.logits("rehearsed"), step.losses()
        finetune, rehearsed = _mean(losses[: step.finetune]), _mean(losses[step.finetune :])
        term = finetune - _mean(losses) + self.alpha * mse_loss(logits.float(), base_logits(step, logits))
        return term + self.beta * rehearsed if self.beta else term


# Rows whose target is no class have no loss, and do not count in the module's mean either.
def _mean(losses: Tensor) -> Tensor:
    return losses.nansum() / (~losses.isnan()).sum().clamp(min=1)
