"""Two numbers on the progress bar."""

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor
from typing_extensions import override

__all__ = ["DamageBar"]

SHOWN = ("damage_rate", "damaged_share")


class DamageBar(Callback):
    """Shows on the progress bar what rehearsal finds, whichever bar the Trainer has.

    `damage_rate` is the estimate for the pool, `damaged_share` is how many of the samples rehearsed lately
    were damaged, both as `RehearsalCallback` logs them. The second above the first means that damage is found
    better than by chance. They change every `log_every_n_steps` steps, and the host waits for the device only
    then; with Lightning's `prog_bar=True` it would in every step.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DamageBar()], logger=False)
    """

    def __init__(self) -> None:
        self._bar: ProgressBar | None = None
        self._own: Callable[..., dict[str, Any]] | None = None
        self._before: dict[str, Any] = {}  # what of it is the bar's own, not of its class
        self._read: list[Tensor] = []  # what was read last
        self._line: dict[str, str] = {}

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._undo()
        bar = trainer.progress_bar_callback
        # A second of us would show the same.
        if stage == "fit" and bar is not None and not isinstance(_owner(bar.get_metrics), DamageBar):
            self._bar, self._own = bar, bar.get_metrics
            self._before = {name: hook for name, hook in vars(bar).items() if name == "get_metrics"}
            bar.get_metrics = self._metrics  # type: ignore[method-assign]
            self._read, self._line = [], {}

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._undo()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._undo()

    def _metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        assert self._own is not None  # noqa: S101 -- set with the hook
        logged = trainer.callback_metrics
        found = {name: logged[f"rehearsal/{name}"] for name in SHOWN if f"rehearsal/{name}" in logged}
        # Lightning makes a new tensor around the same memory at each look; held here, it is not used again.
        if [value.data_ptr() for value in found.values()] != [value.data_ptr() for value in self._read]:
            self._read = [*found.values()]
            shares = torch.stack(self._read).tolist()
            self._line = {name: f"{share:.1%}" for name, share in zip(found, shares, strict=True)}
        return {**self._own(trainer, pl_module), **self._line}

    def _undo(self) -> None:
        if self._bar is not None:
            vars(self._bar).pop("get_metrics", None)
            vars(self._bar).update(self._before)
        self._bar, self._own, self._before = None, None, {}


def _owner(method: Callable[..., Any]) -> object:
    return getattr(method, "__self__", None)
