"""What all adapters have in common: all else is frozen while they train."""

from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from lightning_mixcd.wiring import held_by

__all__ = ["Adapter"]


class Adapter(Callback, ABC):
    """Adds a few parameters to a module and trains these instead of its own.

    A subclass overrides `inject`. What it adds must be there before optimizers are made and before a
    checkpoint is loaded, so this happens in `setup`; the module must then have all of its layers. Names of
    added parts begin with `mixcd`, by which a ledger's fingerprint tells them from the base model's.

    While it trains, batch normalisation uses the statistics of pretraining and leaves them alone, but for
    that in a head. Training is refused with two adapters, or where no optimizer has what was added.

    Attributes:
        trainable_parameters: How many numbers are trained, from `setup` on.
        active_parameters: How many of these still act on the outputs.
        active_blocks: Names of the layers that an adapter which chooses among them has left adapted.
    """

    def __init__(self) -> None:
        self.trainable_parameters = self.active_parameters = 0
        self.active_blocks: tuple[str, ...] = ()
        self._frozen: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []
        self._in_heads: set[nn.Module] = set()

    @abstractmethod
    def inject(self, module: LightningModule) -> Collection[nn.Parameter]:
        """Add the adapter's parts, unless the module has them already.

        Args:
            module: The module, with all of its layers.

        Returns:
            All that is to be trained; the rest is frozen.
        """

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        free = [parameter for parameter in pl_module.parameters() if parameter.requires_grad]
        trained = {*self.inject(pl_module)}
        self._frozen += [parameter for parameter in free if parameter not in trained]
        for parameter in pl_module.parameters():
            parameter.requires_grad_(parameter in trained)
        self._norms += [
            part
            for part in {*pl_module.modules()} - self._in_heads
            if isinstance(part, _BatchNorm) and part.training and trained.isdisjoint(part.parameters())
        ]
        if stage == "fit":
            self.trainable_parameters = self.active_parameters = sum(p.numel() for p in trained)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Each has frozen what the other has added.
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if len(given := [type(part).__name__ for part in callbacks if isinstance(part, Adapter)]) > 1:
            raise ValueError(f"`callbacks` must hold one adapter, got {given}. Leave all but one out.")
        held = held_by(*trainer.optimizers)
        # There may be no optimizer, or one with copies of its own, as with DeepSpeed.
        if held.isdisjoint(pl_module.parameters()):
            return
        held.update(self._frozen)
        added = {name: p for name, p in pl_module.named_parameters() if ".mixcd" in f".{name}"}
        if absent := [name for name, parameter in added.items() if parameter not in held]:
            raise ValueError(
                f"`configure_optimizers` must take all that {type(self).__name__} has added to the module, "
                f"got optimizers without {absent[:4]}. Give them `self.parameters()`, not those of a part."
            )

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for norm in self._norms:
            norm.eval()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.release()

    # For `inject`: the parameters of parts in which batch normalisation learns too, weights or not.
    def _in_full(self, heads: Collection[nn.Module]) -> list[nn.Parameter]:
        self._in_heads = {part for head in heads for part in head.modules()}
        return [parameter for head in heads for parameter in head.parameters()]

    def release(self) -> None:
        """Let everything be trained again, and be in train mode, that was before."""
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        for norm in self._norms:
            norm.train()
        self._frozen, self._norms = [], []
