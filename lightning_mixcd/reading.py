"""What was read of the rows of a batch, and how it follows from logits or from a user's own rule."""

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_mixcd.errors import CaptureError

__all__ = ["Reading", "classified", "described", "embedded", "ruled", "sized"]


@dataclass(frozen=True)
class Reading:
    """What was read of some rows.

    Args:
        matched: Whether each row's answer is the target, bool, `(R,)`; None where nothing says so.
        highest: Highest logit of each row, `(R,)`; None where the answer does not come from logits. A NaN is
            taken for the highest, and may stand where the target does.
        loss: Loss of each row in nats, `(R,)`, NaN where the target is no class; None where not asked for or
            not known.
        label: Target of each row, int64, `(R,)`; None where the rule does not use one.
        logits: Logits of each row, `(R, ...)`; None where not asked for, or where there are none.
        features: Input of the head, or what stands for it, `(R, d)`; None where not asked for.
        problem: Why nothing says what is right; empty where something does.
    """

    matched: Tensor | None = None
    highest: Tensor | None = None
    loss: Tensor | None = None
    label: Tensor | None = None
    logits: Tensor | None = None
    features: Tensor | None = None
    problem: str = ""

    @property
    def correct(self) -> Tensor:
        """Whether the model got each row right, bool, `(R,)`; never where its logits are NaN or overflow.

        Raises:
            CaptureError: If nothing says so.
        """
        if self.matched is None:
            raise CaptureError(self.problem)
        if self.highest is None:
            return self.matched
        # NaN unless it is finite, and NaN is not itself; `isfinite` takes twice the time.
        nothing = self.highest - self.highest
        return self.matched & (nothing == nothing)

    @property
    def tensors(self) -> dict[str, Any]:
        """What is there, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    @staticmethod
    def joined(readings: Sequence["Reading"]) -> "Reading":
        """Put readings of several batches together, but for their labels.

        Args:
            readings: At least one.

        Returns:
            One reading of all rows, with what all of them have.
        """
        logits, features, loss = (
            _cat([getattr(reading, name) for reading in readings]) for name in ("logits", "features", "loss")
        )
        highest, problems = _cat([reading.highest for reading in readings]), [r.problem for r in readings]
        matched = None
        if not any(problems):
            kind = "correct" if highest is None else "matched"
            matched = torch.cat([getattr(reading, kind) for reading in readings])
        return Reading(matched, highest, loss, logits=logits, features=features, problem=max(problems))


def _cat(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part for part in parts if part is not None]
    return torch.cat(there) if len(there) == len(parts) else None


def ruled(given: object, rows: int, part: slice) -> Reading:
    """Check what a user's own rule said.

    Args:
        given: Correctness of each row, bool, or a pair of that and the losses.
        rows: Rows of the batch.
        part: Which of them are wanted.

    Returns:
        The reading, without labels.

    Raises:
        CaptureError: If there is not one bool, or not one loss, per row.
    """
    correct, loss = given if isinstance(given, tuple) else (given, None)
    if not isinstance(correct, Tensor) or correct.dtype != torch.bool or correct.shape != (rows,):
        raise CaptureError(
            f"Correctness must be a bool tensor of shape ({rows},), one per row of the batch, got "
            f"{described(correct)}. Compare per row, for example `logits.argmax(1) == labels`."
        )
    return Reading(correct[part], loss=None if loss is None else sized(loss, rows, "losses", ndim=1)[part])


def classified(logits: Tensor, target: Tensor, *, with_loss: bool) -> Reading:
    """Compare the highest logit with the target.

    Args:
        logits: `(R, C)`.
        target: Class of each row, whole numbers, `(R,)`.
        with_loss: Whether the loss of each row is wanted too.

    Returns:
        The reading.

    Raises:
        CaptureError: If these are no logits of classes.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise CaptureError(
            f"Logits must have the shape (B, C) with C classes, 2 or more, got {tuple(logits.shape)} for the "
            "rows read. For other tasks say what counts as right: "
            "Readout(correctness=lambda outputs, batch: ...)."
        )
    highest, guess = logits.max(dim=1)
    matched = guess == target
    if not with_loss:
        return Reading(matched, highest, label=target)
    named = (target >= 0) & (target < logits.shape[1])
    # Looked up outside of the classes, a device would fail for good, and -100 would have a loss of 0.
    inside = target.long().where(named, 0)
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = nn.functional.cross_entropy(exact, inside, reduction="none")
    return Reading(matched, highest, loss.masked_fill(~named, torch.nan), target)


def sized(values: object, rows: int, name: str, ndim: int | None = None) -> Tensor:
    """Require a row per row of the batch.

    Args:
        values: What should be a tensor.
        rows: Rows of the batch.
        name: What it is, for the message.
        ndim: Dimensions that it must have; any number if None.

    Returns:
        The tensor.

    Raises:
        CaptureError: If it is something else.
    """
    if not isinstance(values, Tensor) or values.ndim != (ndim or values.ndim or 1) or len(values) != rows:
        raise CaptureError(
            f"`{name}` must be a tensor with a row per row of the batch ({rows}), got {described(values)}. "
            "Return it for the whole batch, in its order."
        )
    return values


def embedded(output: object, batch: object, rows: int, part: slice) -> Tensor:
    """Take one vector per row from what a submodule put out.

    Args:
        output: Vectors of the rows, `(B, d)`, or of their tokens, `(B, L, d)`; or the first part, or the
            `last_hidden_state`, is that.
        batch: The batch, whose `attention_mask`, `(B, L)`, says which tokens count; all do without one.
        rows: Rows of the batch, B.
        part: Which of them are wanted.

    Returns:
        Vectors, means over tokens in float32 at least, `(R, d)`.

    Raises:
        CaptureError: If these are no vectors of the rows, or the mask is not one of their tokens.
    """
    values = output[0] if isinstance(output, tuple) else output
    values = output.get("last_hidden_state") if isinstance(output, Mapping) else values
    known = isinstance(values, Tensor) and values.is_floating_point() and values.ndim in {2, 3}
    if not isinstance(values, Tensor) or not known or len(values) != rows:
        raise CaptureError(
            f"`embedding` must name a submodule that puts out vectors, ({rows}, d), or vectors of tokens, "
            f"({rows}, L, d), for the {rows} rows of the batch, got {described(values)}. Name another one, "
            "or pass your vectors through an `nn.Identity` and name that."
        )
    if values.ndim == 2:
        return values[part]
    mask = (batch.get if isinstance(batch, Mapping) else partial(getattr, batch))("attention_mask", None)
    if mask is None:
        mask = values.new_ones(values.shape[:2])
    if mask.shape != values.shape[:2]:
        raise CaptureError(
            "`embedding` must name a submodule that puts out a vector per token of `attention_mask`, "
            f"{tuple(mask.shape)}, got {described(values)}. Name the one that reads these tokens, such as "
            "the encoder."
        )
    counts = mask[part].to(torch.promote_types(values.dtype, torch.float32))[:, :, None]
    # What padding holds may be no number.
    tokens = values[part].to(counts.dtype).masked_fill(counts == 0, 0)
    mean: Tensor = (tokens * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)
    return mean


def described(value: object) -> str:
    """Say in a few words what a value is.

    Args:
        value: Anything.

    Returns:
        Type and shape of a tensor; else the value, shortened.
    """
    return (
        f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else reprlib.repr(value)
    )
