"""Reading, from a training step that was made anyway, which samples the model got right."""

import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lightning_mixcd.errors import CaptureError
from lightning_mixcd.functional.joining import n_rows

__all__ = ["Reading", "Readout"]

TARGET_KEYS = ("labels", "label", "y", "target", "targets")

REMEDIES = """Any one of these makes it readable:
  1. return {"loss": loss, "logits": logits} from `training_step` (or a Hugging Face model output as it is);
  2. name the submodule whose output is the logits: Readout(module="classifier");
  3. return {"loss": loss, "correct": correct} with a bool per row;
  4. pass your own rule: Readout(correctness=lambda outputs, batch: ...), a bool per row."""


@dataclass(frozen=True)
class Reading:
    """What was read of some rows.

    Args:
        matched: Whether each row's answer is the target, bool, `(R,)`.
        highest: Highest logit of each row, `(R,)`; None where the answer does not come from logits. A NaN is
            taken for the highest, and may stand where the target does.
        loss: Loss of each row in nats, `(R,)`, NaN where the target is no class; None where not asked for or
            not known.
        label: Target of each row, int64, `(R,)`; None where the rule does not use one.
    """

    matched: Tensor
    highest: Tensor | None = None
    loss: Tensor | None = None
    label: Tensor | None = None

    @property
    def correct(self) -> Tensor:
        """Whether the model got each row right, bool, `(R,)`; never where its logits are NaN or overflow."""
        # `isfinite` takes twice as many kernels.
        return self.matched if self.highest is None else self.matched & (self.highest.abs() < torch.inf)

    @staticmethod
    def joined(readings: Sequence["Reading"]) -> "Reading":
        """Put readings of several batches together, but for their labels.

        Args:
            readings: At least one; all with losses, or none.

        Returns:
            One reading of all rows.
        """
        losses = [reading.loss for reading in readings if reading.loss is not None]
        loss = torch.cat(losses) if losses else None
        highest = [reading.highest for reading in readings if reading.highest is not None]
        if len(highest) < len(readings):
            return Reading(torch.cat([reading.correct for reading in readings]), loss=loss)
        return Reading(torch.cat([reading.matched for reading in readings]), torch.cat(highest), loss)


class Readout:
    """Says where correctness is to be found; the default understands what most modules return.

    In order: the `correctness` rule; `outputs["correct"]`; logits `(B, C)`, from the named submodule or from
    `outputs["logits"]`, whose argmax is compared with the target; `outputs["preds"]`, compared likewise. Rows
    whose logits are NaN or overflow are wrong, and so are those whose target is none of the C classes, such
    as -100. The reading is that of the training pass: train mode, weights before the step's update.

    Args:
        logits: Key of the logits in what `training_step` returns.
        module: Name of a submodule whose output is the logits, for a `training_step` that returns a loss
            only; where it is called several times in a step, the last time counts.
        target: Key, field or position of the targets in the batch, or a function of the batch; by default
            `labels`, `label`, `y`, `target` or `targets`, or the last element of a tuple.
        correctness: `correctness(outputs, batch)` returns a bool per row, `(B,)`, or a pair of that and the
            loss of each row.
        step: `step(module, batch)` returns outputs outside of training (ledger, oracle); by default
            `module.training_step(batch, 0)`, or the forward of a plain `nn.Module`.

    Example:
        >>> outputs = {"logits": torch.tensor([[0.1, 0.9], [0.8, 0.2]])}
        >>> Readout().read(outputs, {"x": torch.zeros(2, 3), "y": torch.tensor([1, 1])}).correct
        tensor([ True, False])
    """

    def __init__(
        self,
        *,
        logits: str = "logits",
        module: str | None = None,
        target: str | int | Callable[[Any], Tensor] | None = None,
        correctness: Callable[[Any, Any], Tensor | tuple[Tensor, Tensor]] | None = None,
        step: Callable[[Any, Any], object] | None = None,
    ) -> None:
        self.logits, self.module, self.target = logits, module, target
        self.correctness, self.step = correctness, step
        self._captured: Tensor | None = None

    def attach(self, model: nn.Module) -> RemovableHandle | None:
        """Start listening to the named submodule, if one is named.

        Args:
            model: The module that is trained.

        Returns:
            A handle whose `remove()` ends it; None if there is nothing to listen to.

        Raises:
            CaptureError: If there is no submodule of that name, or it is inside a compiled LightningModule.
        """
        if self.module is None:
            return None
        modules = dict(model.named_modules())
        if self.module not in modules:
            names = [name for name in modules if name][:20]
            raise CaptureError(f"`module` must name a submodule, got {self.module!r}. There are: {names}.")
        # Hooks set after compilation do not run; whether earlier ones do depends on what else was compiled.
        if getattr(model, "_compiler_ctx", None) is not None:
            raise CaptureError(self._silent())
        self.forget()
        handle: RemovableHandle = modules[self.module].register_forward_hook(self._keep)
        return handle

    def forget(self) -> None:
        """Drop what the named submodule put out until now, such as that of a validation batch."""
        self._captured = None

    def _keep(self, _module: nn.Module, _inputs: object, output: object) -> None:
        output = output[0] if isinstance(output, tuple) else output
        output = output.get("logits") if isinstance(output, Mapping) else output
        self._captured = output if isinstance(output, Tensor) else None

    def read(
        self,
        outputs: object,
        batch: object,
        *,
        rows: int | None = None,
        last: int | None = None,
        with_loss: bool = False,
    ) -> Reading:
        """Read the last rows of a batch.

        Args:
            outputs: What `on_train_batch_end` was given: what the training step returned.
            batch: The batch of that step.
            rows: Rows of the batch; None to count them.
            last: How many rows, R, counted from the end; None for all.
            with_loss: Whether the loss of each row is wanted too.

        Returns:
            The reading, on the device of the outputs.

        Raises:
            CaptureError: If there is nothing to read, or it does not have a row per row of the batch.
        """
        captured, self._captured = self._captured, None
        rows = n_rows(batch) if rows is None else rows
        keep = slice(rows - (rows if last is None else last), rows)
        given = outputs if isinstance(outputs, Mapping) else {}
        if self.correctness is not None:
            return _ruled(self.correctness(outputs, batch), rows, keep)
        if "correct" in given:
            return _ruled(given["correct"], rows, keep, given.get("losses"))
        if captured is None and self.module is None:
            captured = (
                outputs if isinstance(outputs, Tensor) and outputs.ndim == 2 else given.get(self.logits)
            )
        if captured is not None:
            target = self._target(batch, rows)[keep]
            return _classified(_sized(captured, rows, "logits")[keep], target, with_loss=with_loss)
        if "preds" in given and self.module is None:
            target = self._target(batch, rows)[keep]
            preds = _sized(given["preds"], rows, "preds", ndim=1)[keep]
            return Reading(preds == target, label=target)
        raise CaptureError(self._silent() if self.module is not None else _unreadable(outputs))

    def _target(self, batch: object, rows: int) -> Tensor:
        target = self.target(batch) if callable(self.target) else _find_target(batch, self.target)
        if not isinstance(target, Tensor) or target.shape != (rows,) or target.is_floating_point():
            got = "nothing" if target is None else _describe(target)
            raise CaptureError(
                f"Targets must be whole numbers of shape ({rows},), one class per row, found {got} in "
                f'{_names(batch)}. Name them: Readout(target="label"), or Readout(target=1) for a tuple; for '
                "tasks that are not classification pass Readout(correctness=...)."
            )
        return target

    def _silent(self) -> str:
        return (
            f"The submodule {self.module!r} put out no logits in `training_step`, did not run there, or is "
            "inside a compiled LightningModule, where hooks cannot be relied on. Name the right submodule, "
            "compile the network instead of the LightningModule, or return the logits."
        )


def _unreadable(outputs: object) -> str:
    problem = f"Correctness of the rehearsed samples cannot be read: `training_step` gave {_names(outputs)}."
    return f"{problem}\n{REMEDIES}"


def _find_target(batch: Any, name: str | int | None) -> object:  # noqa: ANN401 -- any structure
    if name is not None:
        try:
            return batch[name]
        except (KeyError, IndexError, TypeError):
            return getattr(batch, name, None) if isinstance(name, str) else None
    for key in TARGET_KEYS if type(batch) not in (tuple, list) else ():
        if hasattr(batch, "keys") and key in batch:
            return batch[key]
        if hasattr(batch, key):
            return getattr(batch, key)
    return batch[-1] if isinstance(batch, Sequence) else None


def _names(value: Any) -> str:  # noqa: ANN401 -- any structure
    keys = f" with {list(value.keys())}" if hasattr(value, "keys") else ""
    return f"a {type(value).__name__}{keys}"


def _describe(value: object) -> str:
    return (
        f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else reprlib.repr(value)
    )


def _sized(values: object, rows: int, name: str, ndim: int | None = None) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != (ndim or values.ndim or 1) or len(values) != rows:
        raise CaptureError(
            f"`{name}` must be a tensor with a row per row of the batch ({rows}), got {_describe(values)}. "
            "Return it for the whole batch, in its order."
        )
    return values


# Checks what a user's own rule said.
def _ruled(ruled: object, rows: int, keep: slice, losses: object = None) -> Reading:
    correct, loss = ruled if isinstance(ruled, tuple) else (ruled, losses)
    if not isinstance(correct, Tensor) or correct.dtype != torch.bool or correct.shape != (rows,):
        raise CaptureError(
            f"Correctness must be a bool tensor of shape ({rows},), one per row of the batch, got "
            f"{_describe(correct)}. Compare per row, for example `logits.argmax(1) == labels`."
        )
    if loss is not None:
        loss = _sized(loss, rows, "losses", ndim=1).detach()[keep]
    return Reading(correct.detach()[keep], loss=loss)


def _classified(logits: Tensor, target: Tensor, *, with_loss: bool) -> Reading:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise CaptureError(
            f"Logits must have the shape (B, C) with C classes, 2 or more, got {tuple(logits.shape)} for the "
            "rows read. For other tasks say what counts as right: "
            "Readout(correctness=lambda outputs, batch: ...)."
        )
    if logits.requires_grad:
        logits = logits.detach()
    highest, guess = logits.max(dim=1)
    matched = guess == target
    if not with_loss:
        return Reading(matched, highest, label=target)
    named = (target >= 0) & (target < logits.shape[1])
    # Looked up outside of the classes, a device would fail for good, and -100 would have a loss of 0.
    inside = target.long().where(named, 0)
    loss = nn.functional.cross_entropy(logits.float(), inside, reduction="none")
    return Reading(matched, highest, loss.masked_fill(~named, torch.nan), target)
