"""What is added to the loss and done to the gradients of somebody else's training step."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lightning_mixcd.capture import Reading, Readout
from lightning_mixcd.data.host_copy import to_device
from lightning_mixcd.errors import CaptureError, check_kept
from lightning_mixcd.functional.joining import n_rows, unshared
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.ledger.columns import Array
from lightning_mixcd.look import Look, loss_of
from lightning_mixcd.penalties.base import Apart, Penalty, Start, Step
from lightning_mixcd.scaling import check_unscaled, skip_if_not_finite
from lightning_mixcd.separate import SeparateStep
from lightning_mixcd.wiring import StepHook, held_by

__all__ = ["Terms"]


class Terms:
    """Weighs the rehearsed rows and lets penalties act.

    The module's own loss is taken for the mean over the rows of the batch, as it is with most criteria: a row
    of weight w adds `(w - 1) / rows` times its loss. Where rehearsed rows have a step of their own, its loss
    is taken for their mean, and the mean over all rows is put together from the two.

    Args:
        penalties: The penalties.
        weight: Weight of a rehearsed row, beside 1 for a finetune row.
        module: The model.
        readout: How logits and losses are read.
        look: Runs the model for penalties.
        total: Returns the sum of a tensor over all ranks; it may change its argument.
        separate: Makes the step of rehearsed rows, where they do not join the batch.
    """

    def __init__(
        self,
        penalties: Sequence[Penalty],
        weight: float,
        module: LightningModule,
        readout: Readout,
        look: Look,
        total: Callable[[Tensor], Tensor],
        separate: SeparateStep | None = None,
    ) -> None:
        self.penalties, self.weight = penalties, weight
        self.module, self.readout, self.look, self._total = module, readout, look, total
        self.separate = separate
        self.apart: list[Apart] = []  # of the batches of one optimizer step
        self._used = False  # whether that was made with them
        self.ticket: Mapping[str, Tensor] | None = None  # of the rehearsed rows in the batch being trained
        self.joined = 0  # rows of that batch, when they joined it
        self._hook: StepHook | None = None

    @cached_property
    def keeps_apart(self) -> bool:
        """Whether rehearsed rows are kept out of the batch."""
        return any(penalty.keeps_apart for penalty in self.penalties)

    @cached_property
    def _adding(self) -> list[Penalty]:
        return [penalty for penalty in self.penalties if type(penalty).loss is not Penalty.loss]

    @property
    def needs_look(self) -> bool:
        """Whether the model is run on other rows than those of the training step."""
        return any(penalty.needs_look for penalty in self.penalties)

    def forget(self) -> None:
        """Let go of the rows of earlier batches; those kept apart serve until their step is made."""
        self.ticket = None
        # Not at the step: an optimizer may ask for its gradients several times, as LBFGS does.
        if self._used:
            self.apart, self._used = [], False

    @property
    def _weighs(self) -> bool:
        return self.weight != 1 or bool(self.separate)

    def check(self, *, weighs: bool = False) -> None:
        """Refuse a module to whose step nothing can be added, if there is anything to add.

        Args:
            weighs: Whether drawn rows come with weights.

        Raises:
            CaptureError: If the module optimizes in its `training_step`.
        """
        if (self.penalties or self._weighs or weighs) and not self.module.automatic_optimization:
            raise CaptureError(
                "Penalties and a `rehearsal_weight` other than 1 cannot act on a `training_step` with manual "
                "optimization, which has made its backward when it returns. Leave them out, or use automatic "
                "optimization."
            )

    def columns(self, ledger: Ledger) -> dict[str, Array]:
        """Return what tickets must hold of the ledger, by name there.

        Args:
            ledger: The ledger.

        Returns:
            Columns, each `(N, ...)`.
        """
        needed = {name for penalty in self.penalties for name in penalty.needs_columns}
        return {f"ledger/{name}": ledger.column(name) for name in sorted(needed)}

    def begin(self, start: Start | None, *, weighs: bool) -> None:
        """Get penalties ready, and stand behind the training step if there is anything to add.

        Args:
            start: What there is to know at the base model's weights; None where a run is resumed.
            weighs: Whether drawn rows come with weights.

        Raises:
            CaptureError: If the module optimizes in its `training_step`, where nothing can be added.
        """
        self.check(weighs=weighs)
        if self._adding or self._weighs or weighs:
            self._hook = StepHook(self.module, self._add, self._before)
            self.look.bare = self._hook.paused
        for penalty in self.penalties:
            penalty.attach(self.module)
            if start is not None:
                penalty.setup(start)

    def detach(self) -> None:
        """Leave the training step as it was."""
        if self._hook is not None:
            self._hook.undo()

    # The step may change its batch, which a penalty's term may have to look at afterwards.
    def _before(self, batch: object) -> tuple[int, object]:
        looks = any(penalty.needs_look for penalty in self._adding)
        return n_rows(batch), unshared(batch) if looks else batch

    def _add(self, noted: tuple[int, object], outputs: object, batch: object, number: int = 0) -> object:
        # Validation may make the same step.
        trains = torch.is_grad_enabled() and self.module.trainer.training
        if outputs is None or not trains:
            return outputs
        (rows, given), ticket = noted, self.ticket or {}
        rehearsed = len(next(iter(ticket.values()))) if ticket else 0
        loss = loss_of(outputs)
        ticket = {name: to_device(values, loss.device) for name, values in ticket.items()}
        seen = self._reader(self.readout, outputs, batch, rows)
        if self.separate is None or not rehearsed:
            step = Step(outputs, given, rows, rehearsed, ticket, seen, self.look)
            loss = self._weighed(step, loss)
        else:
            with self.look.bare():
                kept, its_outputs, its_batch = self.separate.make(number)
            rehearsed = self.separate.rows  # hooks may make several views of a row
            apart = self._reader(self.separate.readout, its_outputs, its_batch, rehearsed)
            step = Step(outputs, given, rows + rehearsed, rehearsed, ticket, seen, self.look, apart)
            loss = self._put_together(step, loss, kept)
        for penalty in self.penalties:
            term = penalty.loss(step)
            loss = loss if term is None else loss + term
        return with_loss(outputs, loss)

    def _weighed(self, step: Step, loss: Tensor) -> Tensor:
        if not step.rehearsed or (self.weight == 1 and "weight" not in step.ticket):
            return loss
        check_kept(step.rows, self.joined)
        weight = self.weight * step.ticket.get("weight", torch.ones((), device=loss.device))
        losses = step.losses()
        # A row whose target is no class has none, and does not count in the module's mean either.
        rows_with_loss = (~losses.isnan()).sum().clamp(min=1)
        return loss + ((weight - 1) * losses[step.finetune :]).nansum() / rows_with_loss

    def _put_together(self, step: Step, loss: Tensor, kept: Tensor) -> Tensor:
        if "weight" in step.ticket:
            more = (step.ticket["weight"] - 1) * step.losses("rehearsed")
            kept = kept + more.nansum() / step.rehearsed
        return (step.finetune * loss + self.weight * step.rehearsed * kept) / step.rows

    @staticmethod
    def _reader(readout: Readout, outputs: object, batch: object, rows: int) -> Callable[[], Reading]:
        return cache(
            partial(
                readout.read,
                outputs,
                batch,
                rows=rows,
                with_loss=True,
                with_logits=True,
                with_graph=True,
                keep=True,
            )
        )

    def metrics(self) -> dict[str, Tensor]:
        """Return what penalties log, by name of their kind; the second of a kind is `EWC_2`, and so on."""
        kinds = [type(penalty).__name__ for penalty in self.penalties]
        places = [kinds[: i + 1].count(kind) for i, kind in enumerate(kinds)]
        return {
            f"{kind}/{name}" if place == 1 else f"{kind}_{place}/{name}": value
            for kind, place, penalty in zip(kinds, places, self.penalties, strict=True)
            for name, value in penalty.metrics().items()
        }

    def state_dict(self) -> list[dict[str, Tensor]]:
        """Return what penalties need to go on, one by one."""
        return [penalty.state_dict() for penalty in self.penalties]

    def load_state_dict(self, states: list[dict[str, Tensor]], *, device: torch.device) -> None:
        """Take over what `state_dict` returned; after `begin`.

        Args:
            states: The states, of the same penalties.
            device: Where to bring them.
        """
        self.apart = []
        for penalty, state in zip(self.penalties, states, strict=True):
            penalty.load_state_dict({name: values.to(device) for name, values in state.items()})

    def change_gradients(self, optimizer: Optimizer) -> None:
        """Let penalties change the gradients of the optimizer step that is about to be made.

        Args:
            optimizer: The optimizer.

        Raises:
            CaptureError: If the loss was scaled, and gradients still are, or if gradients are sparse.
        """
        changing = [p for p in self.penalties if type(p).change_gradients is not Penalty.change_gradients]
        if not changing:
            return
        scaler = self.look.scaler
        if scaler is not None:
            check_unscaled(optimizer)
        # Nobody empties or unscales the gradient of a parameter that the optimizer does not have.
        own = held_by(optimizer)
        gradients = {
            name: parameter.grad
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad and parameter.grad is not None and parameter in own
        }
        if sparse := [name for name, gradient in gradients.items() if gradient.layout != torch.strided]:
            raise CaptureError(
                f"{type(changing[0]).__name__} changes gradients, which must be dense, got a sparse one of "
                f"`{sparse[0]}`. Make its layer with sparse=False, or leave the penalty out."
            )
        if gradients:  # none where the module's step has returned none
            for penalty in changing:
                penalty.change_gradients(gradients, self.apart, self._total)
        self._used = True
        if scaler is not None:
            skip_if_not_finite(scaler, optimizer, gradients.values())


def with_loss(outputs: object, loss: Tensor) -> object:
    """Put another loss into what a training step returned.

    Args:
        outputs: A loss, or a mapping with one; not changed.
        loss: The other loss.

    Returns:
        The same kind of thing.
    """
    if isinstance(outputs, Tensor):
        return loss
    changed = copy.copy(cast("dict[str, object]", outputs))
    changed["loss"] = loss
    return changed
