"""Running the current model on rows of one's choice, counted and without a trace."""

import copy
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from typing_extensions import override

from lightning_mixcd.capture import Reading, Readout
from lightning_mixcd.data.seeded import seeded
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.functional.joining import n_rows, take_rows, unshared
from lightning_mixcd.protocols import ModelLook, Seen, Weights
from lightning_mixcd.traceless import cuda_states_kept, outputs_of, plain, quiet

__all__ = ["Look", "loss_of"]

Made = TypeVar("Made")


class Look(ModelLook):
    """Implements `ModelLook` for a LightningModule.

    Args:
        module: The model.
        readout: How outputs are read.
        context: Context of each forward, such as the trainer's precision.
        learning_rate: Returns the current learning rate.
        held: Returns what optimizers have.
        scaler: Scales the loss of a training step, and so that of a gradient; None in full precision.

    Attributes:
        with_features: Whether looks show features.
        forwards: Sample-forwards so far.
        backwards: Sample-backwards so far.
        scaler: As given.
    """

    def __init__(
        self,
        module: LightningModule,
        readout: Readout,
        *,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        learning_rate: Callable[[], float] = lambda: 0.0,
        held: Callable[[], Set[Tensor]] = frozenset,
        scaler: GradScaler | None = None,
    ) -> None:
        self.module: LightningModule = getattr(module, "_orig_mod", module)
        # What the training step's own pass put out must stay readable.
        self._readout, self._training_readout = copy.copy(readout), readout
        self._callable = _Callable(self.module, self._readout)
        self._context, self._learning_rate, self.scaler = context, learning_rate, scaler
        self._held = held
        self.forwards = self.backwards = 0
        self.with_features = False
        self._walked = False  # whether a graph has been looked through
        # A context in which the training step is the user's own.
        self.bare: Callable[[], AbstractContextManager[Any]] = nullcontext

    @property
    @override
    def learning_rate(self) -> float:
        return self._learning_rate()

    def check(self) -> None:
        """Refuse models that cannot be looked at.

        Raises:
            CaptureError: If the model optimizes in its `training_step`, is sharded, or runs without autograd.
        """
        problem = remedy = ""
        if not self.module.automatic_optimization and self._readout.step is None:
            problem = "a `training_step` with manual optimization would train"
            remedy = "Say how to get its outputs: Readout(step=lambda module, batch: ...)"
        elif any(isinstance(parameter, DTensor) for parameter in self.module.parameters()):
            problem = "its parameters are sharded over processes"
            remedy = "Train with DDP, or choose a strategy that does not look at the model, such as MixCD"
        elif torch.is_inference_mode_enabled():
            problem, remedy = "`torch.inference_mode` is on, where nothing can be differentiated", "Leave it"
        if problem:
            raise CaptureError(f"The model cannot be looked at between training steps: {problem}. {remedy}.")

    @override
    def see(self, batch: Any, *, weights: Weights | None = None) -> Seen:
        with self._looking():
            return self._run(batch, weights, lambda outputs: self._read(outputs, batch))

    @override
    def gradient(self, batch: Any, *, weights: Weights | None = None) -> dict[str, Tensor]:
        used = self.trainable()
        if weights is not None:
            used = {name: weights[name].detach().requires_grad_() for name in used if name in weights}
            weights = {**weights, **used}
        made_by = "training_step" if self._readout.step is None else "Readout(step=...)"

        def differentiated(outputs: object) -> dict[str, Tensor]:
            loss = loss_of(outputs, made_by)
            if self.scaler is None:
                return self._differentiate(loss, used, n_rows(batch))
            scale = self.scaler.scale(torch.ones((), device=loss.device))
            scaled = self._differentiate(loss * scale, used, n_rows(batch))
            return {name: gradient / scale for name, gradient in scaled.items()}

        with self._looking(), self._differentiable():
            return self._run(batch, weights, differentiated)

    @override
    def gradients_by_row(
        self, batch: Any, objective: Callable[[Seen], Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        used = self.trainable()
        for i in range(n_rows(batch)):
            with self._looking(), self._differentiable():
                one = take_rows(batch, i, i + 1)
                seen = self._run(one, None, partial(self._read, batch=one, with_graph=True))
                values = objective(seen)
                # Values share one forward.
                found = [self._differentiate(value, used, 1, keep=True) for value in values]
            yield from found

    @override
    def trainable(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.module.named_parameters() if p.requires_grad}

    @override
    def optimized(self) -> dict[str, Tensor]:
        held, trainable = self._held(), self.trainable()
        # Of DeepSpeed's, which has copies of its own, it has none.
        return {name: p for name, p in trainable.items() if p in held} or trainable

    @override
    def snapshot(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._named()}

    @contextmanager
    def _looking(self) -> Iterator[None]:
        with (
            self.bare(),
            seeded(0),
            cuda_states_kept(),
            quiet(self.module),
            self._training_readout.hearing(False),
            self._readout.attach(self.module, with_features=self.with_features),
            self._context(),
        ):
            yield

    @contextmanager
    def _differentiable(self) -> Iterator[None]:
        recurrent = any(isinstance(part, nn.RNNBase) for part in self.module.modules())
        # In eval mode, cuDNN refuses to differentiate recurrent layers.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext():
            yield

    # What is done with the outputs is done while the weights are there: a backward may make them anew.
    def _run(self, batch: object, weights: Weights | None, do: Callable[[object], Made]) -> Made:
        self.forwards += n_rows(batch)
        shown = unshared(batch)  # the step may change what it is given, and these rows be trained on
        if weights is None:
            return cast("Made", self._callable(shown, do))
        placed = self._placed(weights)
        return cast("Made", functional_call(self._callable, placed, (shown, do), tie_weights=False))

    # Every place that a tensor has in the model, by name. Left to torch, a submodule with two names would
    # keep the weights that it was lent.
    def _placed(self, weights: Weights) -> dict[str, Tensor]:
        lent = {id(own): weights[name] for name, own in self._named() if name in weights}
        return {
            ".".join(filter(None, ("module", prefix, name))): lent[id(own)]
            for prefix, part in self.module.named_modules()
            for name, own in (
                *part.named_parameters(recurse=False, remove_duplicate=False),
                *part.named_buffers(recurse=False, remove_duplicate=False),
            )
            if id(own) in lent
        }

    # Each tensor once, also where two names share it.
    def _named(self) -> tuple[tuple[str, Tensor], ...]:
        return (*self.module.named_parameters(), *self.module.named_buffers())

    def _read(self, outputs: object, batch: object, *, with_graph: bool = False) -> Reading:
        return self._readout.read(
            outputs,
            plain(batch),
            with_loss=True,
            with_logits=True,
            with_features=self.with_features,
            with_graph=with_graph,
        )

    def _differentiate(
        self, value: Tensor, used: dict[str, Tensor], rows: int, *, keep: bool = False
    ) -> dict[str, Tensor]:
        if not value.requires_grad:
            raise CaptureError(
                "Gradients start from the loss or the logits that `training_step` puts out, which have no "
                "graph. Return them without `.detach()`, or name the submodule that makes the logits: "
                "Readout(module=...)."
            )
        if not self._walked:
            _refuse_reentrant(value)
            self._walked = True
        self.backwards += rows
        found = torch.autograd.grad(value, list(used.values()), retain_graph=keep, allow_unused=True)
        return {
            name: torch.zeros_like(parameter) if gradient is None else gradient
            for (name, parameter), gradient in zip(used.items(), found, strict=True)
        }


class _Callable(nn.Module):
    """Lets `functional_call` run a training step."""

    def __init__(self, module: LightningModule, readout: Readout) -> None:
        super().__init__()
        self.module, self.readout = module, readout

    def forward(self, batch: object, do: Callable[[object], Made]) -> Made:
        return do(outputs_of(self.module, batch, self.readout))


# It has no gradients for what is asked for by name, and says so of all layers in it.
def _refuse_reentrant(value: Tensor) -> None:
    todo, seen = [value.grad_fn], set()
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith("CheckpointFunction"):
            raise CaptureError(
                "The model cannot be differentiated between training steps through `torch.utils.checkpoint` "
                "with use_reentrant=True. Pass use_reentrant=False, or do without checkpoints in eval mode."
            )
        todo += [inner for inner, _ in node.next_functions]


def loss_of(outputs: object, step: str = "training_step") -> Tensor:
    """Return the loss among what a step returned.

    Args:
        outputs: A loss, or a mapping with one.
        step: What returned it, for the message.

    Returns:
        The loss, 0-dim, with its graph.

    Raises:
        CaptureError: If there is none.
    """
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor) or loss.ndim:
        raise CaptureError(
            f'The loss must be a 0-dim tensor, returned by `{step}` or as its "loss", got '
            f"{type(loss).__name__}. Penalties and gradients start from it."
        )
    return loss
