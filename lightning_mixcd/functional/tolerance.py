"""When a row counts as right though no class was answered: its loss has hardly risen."""

from collections.abc import Mapping

from torch import Tensor

from lightning_mixcd.errors import CaptureError

__all__ = ["ALLOWED_LOSS", "right_now"]

ALLOWED_LOSS = "allowed_loss"


def right_now(correct: Tensor, loss: Tensor | None, known: Mapping[str, Tensor]) -> Tensor:
    """Say which rows count as right: where a loss is allowed, those within it, else those answered right.

    Args:
        correct: Whether each row was answered right, bool, `(R,)`.
        loss: Loss of each row in nats, `(R,)`; None where it is not known.
        known: What is known of the rows, such as their ticket; `allowed_loss` is the highest loss, `(R,)`.

    Returns:
        bool, `(R,)`; a loss that is NaN is never within.

    Raises:
        CaptureError: If losses are to be compared and are not known.

    Example:
        >>> import torch
        >>> correct, loss = torch.tensor([True, False]), torch.tensor([0.9, 0.4])
        >>> right_now(correct, loss, {})
        tensor([ True, False])
        >>> right_now(correct, loss, {"allowed_loss": torch.tensor([0.6, 0.6])})
        tensor([False,  True])
    """
    allowed = known.get(ALLOWED_LOSS)
    if allowed is None:
        return correct
    if loss is None:
        raise CaptureError(
            "Readout(tolerance=...) compares the loss of each row with the base model's, and the outputs "
            'have none. Return {"loss": ..., "losses": ...}, or logits, or let the `correctness` rule return '
            "(correct, losses)."
        )
    return loss.float() <= allowed
