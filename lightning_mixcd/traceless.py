"""Running a model without leaving a trace."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torchmetrics import Metric, MetricCollection

from lightning_mixcd.capture import Readout
from lightning_mixcd.types import PoolRows
from lightning_mixcd.wiring import call_step, rehearsal_step

__all__ = ["cuda_states_kept", "outputs_of", "plain", "quiet"]

OF_MODULES = vars(nn.Module()).keys()


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
    """Put a module into eval mode without gradients, mute its log and its loggers, spare what it counts.

    Args:
        module: The module. Its buffers and metrics are as they were afterwards, whatever was written to them.

    Yields:
        Nothing.
    """
    parts = [*module.modules()]
    modes = [(m, m.training) for m in parts]
    muted = [m for m in parts if isinstance(m, LightningModule)]
    own_logs = [m.__dict__.get("log") for m in muted]
    for loud in muted:
        loud.__dict__["log"] = _mute
    module.eval()
    try:
        with torch.no_grad(), _mute_loggers(module), _counts_kept(parts):
            yield
    finally:
        for loud, own in zip(muted, own_logs, strict=True):
            del loud.__dict__["log"]
            if own is not None:
                loud.__dict__["log"] = own
        for m, mode in modes:
            m.training = mode


# What a step writes to buffers and metrics goes to copies, so that a graph which has saved one stays whole.
@contextmanager
def _counts_kept(parts: Sequence[nn.Module]) -> Iterator[None]:
    buffers = [
        (part, name, buffer)
        for part in parts
        for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False)
        if not is_lazy(buffer)
    ]
    metrics = [(part, {**vars(part)}) for part in parts if isinstance(part, Metric | MetricCollection)]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in buffers}
    # A forward shortens their long rows, in place.
    short = [p for p in parts if isinstance(p, nn.Embedding | nn.EmbeddingBag) and p.max_norm is not None]
    tables = [part.weight.data for part in short]
    lengths = [table.clone() for table in tables]
    for part, name, buffer in buffers:
        setattr(part, name, copies[id(buffer)])
    for metric, own in metrics:
        vars(metric).update({name: _copied(own[name]) for name in own.keys() - OF_MODULES})
    try:
        yield
    finally:
        for table, before in zip(tables, lengths, strict=True):
            table.copy_(before)
        for metric, own in metrics:
            vars(metric).clear()
            vars(metric).update(own)
        for part, name, buffer in buffers:
            setattr(part, name, buffer)


# As deep as metrics change it in place. Their states may have a graph, which `deepcopy` refuses.
def _copied(value: object) -> object:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [*value] if isinstance(value, list) else value


class _Muted(DummyLogger):
    """Takes what is written to a logger, and says in its place what it is and where."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # Lightning asks for it, to find `trainer.log_dir`
        return type(self._logger)


for _name in ("name", "version", "save_dir", "log_dir", "root_dir"):
    setattr(_Muted, _name, property(attrgetter(f"_logger.{_name}")))


# What a step writes to them by itself, as with `self.logger.experiment`.
@contextmanager
def _mute_loggers(module: nn.Module) -> Iterator[None]:
    trainer = getattr(module, "_trainer", None)
    if not isinstance(trainer, Trainer):
        yield
        return
    loggers, trainer.loggers = trainer.loggers, [*map(_Muted, trainer.loggers)]
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
