"""Answer as the base model answered."""

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax
from typing_extensions import override

from lightning_mixcd.errors import check_range, check_whole
from lightning_mixcd.functional.joining import take_rows
from lightning_mixcd.penalties._rehearsed import LOGITS, base_logits, refuse_no_rehearsal
from lightning_mixcd.penalties.base import Penalty, Start, Step

__all__ = ["Distillation"]

LEAST = -1e38

Rows = Literal["finetune", "rehearsed", "both"]


class Distillation(Penalty):
    r"""Adds how far the model's answers are from those of the base model.

    $\lambda \, \mathrm{KL}(\mathrm{softmax}(z_0 / T) \,\|\, \mathrm{softmax}(z / T))$ with the base model's
    logits $z_0$, the mean over the rows that it acts on. On finetune rows it is Learning without Forgetting
    (Li and Hoiem 2016, arXiv:1606.09282): the base model's weights are kept and make one forward per row. On
    rehearsed rows the base model's logits come from the ledger, without any forward. As in public LwF
    implementations there is no factor $T^2$; for that of Hinton et al. (arXiv:1503.02531) multiply `weight`
    by it.

    Args:
        weight: $\lambda$, 0 or more, beside 1 for the module's loss.
        temperature: $T$, above 0.
        rows: "finetune", "rehearsed" or "both".
        n_classes: Compare the first so many logits alone, those of the prior task; None for all. Elsewhere
            the base model's logits would teach that the new task's classes never occur.

    Raises:
        ValueError: If a number is out of range; at the start of `fit`, if there are to be rehearsed rows and
            the strategy rehearses none; at the first step, if logits are no vector of 2 classes or more per
            row, such as those of a language model's tokens.

    Example:
        >>> from lightning_mixcd import RehearsalCallback, Uniform
        >>> callback = RehearsalCallback(Uniform(), pool=range(1000), penalties=[Distillation()])
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        temperature: float = 2.0,
        rows: Rows = "finetune",
        n_classes: int | None = None,
    ) -> None:
        check_range("(0, inf)", "The default is 2.", temperature=temperature)
        if n_classes is not None:
            check_whole(n_classes=n_classes)
        check_range("[0, inf)", "0 means no penalty.", weight=weight)
        if rows not in get_args(Rows):
            raise ValueError(f"`rows` must be one of {get_args(Rows)}, got {rows!r}.")
        if n_classes is not None and n_classes < 2:
            raise ValueError(f"`n_classes` must be at least 2, got {n_classes}. None compares all logits.")
        self.weight, self.temperature, self.rows, self.n_classes = weight, temperature, rows, n_classes
        self.needs_look = rows != "rehearsed"
        self.needs_columns = () if rows == "finetune" else (LOGITS,)
        self._base: dict[str, Tensor] = {}

    @override
    def setup(self, start: Start) -> None:
        if self.rows != "finetune":
            refuse_no_rehearsal(self, start)
        if self.rows != "rehearsed":
            self._base = start.look.snapshot()

    @override
    def loss(self, step: Step) -> Tensor | None:
        sums, rows = [], 0
        if self.rows != "rehearsed":
            student = step.logits("finetune")
            finetune = take_rows(step.batch, 0, step.finetune)
            teacher = step.look.see(finetune, weights=self._base).logits
            assert teacher is not None  # noqa: S101 -- `step.logits` would have complained
            sums.append(self._divergence(teacher, student))
            rows += step.finetune
        if self.rows != "finetune" and step.rehearsed:
            student = step.logits("rehearsed")
            sums.append(self._divergence(base_logits(step, student), student))
            rows += step.rehearsed
        return self.weight * torch.stack(sums).sum() / rows if rows else None

    def _divergence(self, teacher: Tensor, student: Tensor) -> Tensor:
        if student.ndim != 2 or student.shape[1] < 2:
            raise ValueError(
                "`Distillation` needs logits `(rows, classes)` of 2 classes or more, got "
                f"{tuple(student.shape)}. Return one such vector per row, or use a penalty that needs none, "
                "such as `L2SP` or `MAS`; on rehearsed rows also `DER`."
            )
        # A logit of -inf rules a class out; 0 * (-inf + inf) would be NaN.
        of_teacher, of_student = (
            log_softmax((logits[:, : self.n_classes].float() / self.temperature).clamp(min=LEAST), dim=1)
            for logits in (teacher, student)
        )
        if of_teacher.shape != of_student.shape:
            raise ValueError(
                "`Distillation` needs logits of each row by itself, of the same classes, got "
                f"{tuple(of_teacher.shape)} of the base model and {tuple(of_student.shape)} of the current "
                "one. Where a row is compared with the rest of its batch, as by a contrastive loss, use "
                "`L2SP`, which needs no logits; where the head has grown, `n_classes`."
            )
        return kl_div(of_student, of_teacher, log_target=True, reduction="sum")

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return self._base

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._base = state
