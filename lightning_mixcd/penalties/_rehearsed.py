"""What penalties on rehearsed rows share."""

from torch import Tensor

from lightning_mixcd.penalties.base import Penalty, Start, Step

__all__ = ["LOGITS", "base_logits", "refuse_no_rehearsal"]

LOGITS = "logits"  # the ledger's column


def refuse_no_rehearsal(penalty: Penalty, start: Start) -> None:
    """Refuse a strategy that never rehearses.

    Args:
        penalty: Who needs rehearsed rows, for the message.
        start: What there is to know.

    Raises:
        ValueError: If there will be none.
    """
    if not start.rehearses:
        raise ValueError(
            f"`strategy` must rehearse, because {type(penalty).__name__} acts on rehearsed rows, got one "
            "that never does. Pass for example Uniform(), or leave the penalty out."
        )


def base_logits(step: Step, like: Tensor) -> Tensor:
    """Return what the base model put out for the rehearsed rows.

    Args:
        step: The step.
        like: Logits of the same rows now, `(R, C)`.

    Returns:
        The ledger's logits, float32, `(R, C)`.

    Raises:
        ValueError: If they are of another shape.
    """
    recorded = step.ticket[f"ledger/{LOGITS}"]
    if recorded.shape != like.shape:
        raise ValueError(
            f"The ledger's `{LOGITS}` must have the shape of the model's, {tuple(like.shape)}, got "
            f"{tuple(recorded.shape)}. Give the base model the head that is finetuned, and record again; "
            "where each token has logits, pad all texts to one length."
        )
    return recorded.float()
