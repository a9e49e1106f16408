"""Running a model without leaving a trace."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn
from torchmetrics import Metric

from lightning_mixcd.capture import Readout
from lightning_mixcd.types import PoolRows
from lightning_mixcd.wiring import call_step, rehearsal_step

__all__ = ["cuda_states_kept", "outputs_of", "plain", "quiet"]


def outputs_of(module: nn.Module, batch: Any, readout: Readout) -> object:  # noqa: ANN401 -- any structure
    """Run a model on a batch as its training would.

    Args:
        module: A LightningModule, whose `training_step` is called, or a plain module.
        batch: The batch, as `training_step` gets it; `PoolRows` go to a `rehearsal_step` if there is one.
        readout: May say how to get outputs instead: `Readout(step=...)`.

    Returns:
        What was put out.
    """
    rows = plain(batch)
    if readout.step is not None:
        return readout.step(module, rows)
    if isinstance(module, LightningModule):
        own = rehearsal_step(module) if isinstance(batch, PoolRows) else None
        return call_step(own or module.training_step, rows, 0)
    return module(**rows) if hasattr(rows, "keys") else module(rows[0])


def plain(batch: Any) -> Any:  # noqa: ANN401 -- any structure
    """Return a batch as steps and readouts get it.

    Args:
        batch: A batch, or one marked as `PoolRows`.

    Returns:
        It without the mark.
    """
    return batch.batch if isinstance(batch, PoolRows) else batch


@contextmanager
def quiet(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode without gradients, mute its log and its loggers, spare its metrics.

    Args:
        module: The module.

    Yields:
        Nothing.
    """
    modes = [(m, m.training) for m in module.modules()]
    muted = [m for m in module.modules() if isinstance(m, LightningModule)]
    own_logs = [m.__dict__.get("log") for m in muted]
    # What a training step counts must not count here; copies take the updates.
    metrics = [
        (parent, name, child)
        for parent in list(module.modules())
        for name, child in parent.named_children()
        if isinstance(child, Metric)
    ]
    for parent, name, metric in metrics:
        setattr(parent, name, copy.deepcopy(metric))
    for loud in muted:
        loud.__dict__["log"] = _mute
    module.eval()
    try:
        with torch.no_grad(), _mute_loggers(module):
            yield
    finally:
        for loud, own in zip(muted, own_logs, strict=True):
            del loud.__dict__["log"]
            if own is not None:
                loud.__dict__["log"] = own
        for parent, name, metric in metrics:
            setattr(parent, name, metric)
        for m, mode in modes:
            m.training = mode


# What a step writes to them by itself, as with `self.logger.experiment`.
@contextmanager
def _mute_loggers(module: nn.Module) -> Iterator[None]:
    trainer = getattr(module, "_trainer", None)
    if not isinstance(trainer, Trainer):
        yield
        return
    loggers, trainer.loggers = trainer.loggers, [DummyLogger() for _ in trainer.loggers]
    try:
        yield
    finally:
        trainer.loggers = loggers


def _mute(*args: object, **settings: object) -> None:
    """Stand for `LightningModule.log`."""


def cuda_states_kept() -> AbstractContextManager[None]:
    """Put the random states of all CUDA devices back afterwards.

    Returns:
        The context.
    """
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))
