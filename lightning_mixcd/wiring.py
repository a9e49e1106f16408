"""The one place where we step into somebody else's object."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.hooks import DataHooks
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["BatchHook", "StepHook", "call_step", "held_by", "own_hook", "rehearsal_step"]


class BatchHook:
    """Stands before a batch hook, on the object that Lightning will ask for it.

    A callback cannot replace a batch, and a batch changed in place stays unchanged where it is a tuple. These
    public hooks can, for every kind of batch and of loader. Only training batches pass through `transform`,
    before the hook's own work; so the user's transforms on the device see what is added here.

    Args:
        trainer: The trainer.
        pl_module: The module.
        transform: From the batch that the hook is given to the one that it is to work on.
        name: Name of the hook.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        transform: Callable[[object], object],
        *,
        name: str = "on_after_batch_transfer",
    ) -> None:
        self.trainer, self.transform, self.name = trainer, transform, name
        self.owner = _owner(trainer, pl_module, name)
        self.inner: Callable[[object, int], object] = getattr(self.owner, name)
        self.__wrapped__ = own_hook(trainer, pl_module, name)  # what Lightning takes for the hook's code
        self.was_own = self.owner.__dict__.get(name)
        self.active = True
        self.owner.__dict__[name] = self

    def __call__(self, batch: object, dataloader_idx: int) -> object:
        """Transform a training batch, then let the hook do its work.

        Args:
            batch: The batch.
            dataloader_idx: Number of its loader.

        Returns:
            The batch that Lightning goes on with.
        """
        if self.active and self.trainer.training:
            batch = self.transform(batch)
        return self.inner(batch, dataloader_idx)

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_was, (self.inner,)

    def undo(self) -> None:
        """Put the hook back as it was; several on one hook may be undone in any order."""
        self.active = False
        # One below another stays, inactive, until the other goes.
        while isinstance(top := self.owner.__dict__.get(self.name), BatchHook) and not top.active:
            del self.owner.__dict__[self.name]
            if top.was_own is not None:
                self.owner.__dict__[self.name] = top.was_own


class StepHook:
    """Stands behind a module's `training_step` and may change what it returns, before the backward.

    Args:
        pl_module: The module.
        change: Gets what `before` returned, what `training_step` returned, its batch, and the batch's number
            if the module asks for it; returns what Lightning goes on with.
        before: Gets the batch before the step, which may change it.
    """

    def __init__(
        self,
        pl_module: LightningModule,
        change: Callable[..., object],
        before: Callable[[object], object] = lambda batch: None,  # noqa: ARG005 -- nothing to remember
    ) -> None:
        self.module, self.change, self.before = pl_module, change, before
        self.inner: Callable[..., object] = pl_module.training_step
        self.__wrapped__ = self.inner  # whose signature Lightning reads
        self.was_own = pl_module.__dict__.get("training_step")
        self.active = True
        pl_module.__dict__["training_step"] = self

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Make the step and change what comes of it.

        Args:
            *args: The batch, and its number if the module asks for it.
            **kwargs: The same by name, where the module calls its own step.

        Returns:
            What Lightning goes on with.
        """
        if not self.active:
            return self.inner(*args, **kwargs)
        given = (*args, *kwargs.values())
        noted = self.before(given[0])
        return self.change(noted, self.inner(*args, **kwargs), *given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_it_was, (self.inner,)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let the step be made as it was, for a while."""
        active, self.active = self.active, False
        try:
            yield
        finally:
            self.active = active

    def undo(self) -> None:
        """Put the step back as it was; several on one module are undone in the reverse order."""
        self.active = False
        if self.module.__dict__.get("training_step") is self:
            del self.module.__dict__["training_step"]
            if self.was_own is not None:
                self.module.__dict__["training_step"] = self.was_own


def rehearsal_step(module: object) -> Callable[..., object] | None:
    """Return the step that a module has for pool rows alone.

    Args:
        module: The module.

    Returns:
        Its `rehearsal_step`; None if it has none, so that pool rows join the finetune batch.

    Raises:
        TypeError: If that is no method.
    """
    step: Callable[..., object] | None = getattr(module, "rehearsal_step", None)
    if step is not None and not callable(step):
        raise TypeError(
            f"`rehearsal_step` of {type(module).__name__} must be a method, got {step!r}. It gets a pool "
            "batch and its number, as `training_step` does; without it, pool rows join the finetune batch."
        )
    return step


def call_step(step: Callable[..., object], batch: object, number: int) -> object:
    """Call a step as Lightning does: the number of the batch is optional.

    Args:
        step: `training_step` or `rehearsal_step`.
        batch: The batch.
        number: Its number.

    Returns:
        What the step returned.
    """
    return step(batch, number) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else step(batch)


def held_by(*optimizers: Optimizer) -> set[Tensor]:
    """Return the parameters that optimizers have.

    Args:
        *optimizers: The optimizers.

    Returns:
        The parameters.
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {parameter for group in groups for parameter in group["params"]}


def own_hook(trainer: Trainer, pl_module: LightningModule, name: str) -> Callable[..., Any]:
    """Return a batch hook as its owner has it, without any `BatchHook` before it.

    Args:
        trainer: The trainer.
        pl_module: The module.
        name: Name of the hook.

    Returns:
        The bound method of the datamodule, if that overrides the hook, else of the module.
    """
    hook: Callable[..., Any] = getattr(_owner(trainer, pl_module, name), name)
    while isinstance(hook, BatchHook):
        hook = hook.inner
    return hook


# In a copy of the module, or one loaded from a pickle, the method has nothing before or behind it.
def _as_it_was(method: Callable[..., object]) -> Callable[..., object]:
    return method


def _owner(trainer: Trainer, pl_module: LightningModule, name: str) -> DataHooks:
    datamodule = getattr(trainer, "datamodule", None)
    return datamodule if datamodule is not None and is_overridden(name, datamodule) else pl_module
