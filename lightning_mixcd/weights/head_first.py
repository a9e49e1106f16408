"""Train the head alone for a while, then everything."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from lightning_mixcd.errors import check_counts

__all__ = ["HeadFirst"]


class HeadFirst(Callback):
    """Freezes all but the head for the first optimizer steps, then trains everything.

    LP-FT (Kumar et al. 2022, arXiv:2202.10054): with a head that fits the new task already, the first
    gradients do not tear at the features. While frozen, batch normalisation outside of the head uses the
    statistics of pretraining and leaves them alone; dropout stays on.

    Parameters that are frozen get no gradient, and optimizers pass them over: `configure_optimizers` stays as
    it is, with all parameters, and learning rates go on as scheduled. What is frozen follows from the number
    of steps alone, so a resumed run needs nothing saved. Compute units count a step of the head like any
    other.

    Args:
        head: Name of the submodule, as in `named_modules()`; see `print(module)`.
        steps: Optimizer steps before everything is trained.

    Raises:
        ValueError: If `steps` is below 1; at the start of `fit`, if the module has no such part with
            parameters, or DDP would wait for the frozen ones.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[HeadFirst("classifier", steps=200)], logger=False)
    """

    def __init__(self, head: str, *, steps: int) -> None:
        check_counts("Leave the callback out.", steps=steps)
        self.head, self.steps = head, steps
        self._frozen: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []  # outside of the head
        self._held: list[nn.Module] = []  # those of them that were put into eval mode

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _refuse_waiting(trainer)
        head = dict(pl_module.named_modules(remove_duplicate=False)).get(self.head)
        if head is None or not any(True for _ in head.parameters()):
            raise ValueError(
                f"`head` must name a submodule with parameters, got {self.head!r}. There are: "
                f"{', '.join(_with_parameters(pl_module))}."
            )
        if trainer.global_step >= self.steps:
            return
        kept, inside = {*head.parameters()}, {*head.modules()}
        norms = (part for part in pl_module.modules() if isinstance(part, _BatchNorm))
        self._norms = [part for part in norms if part not in inside]
        self._frozen = [p for p in pl_module.parameters() if p.requires_grad and p not in kept]
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step >= self.steps:
            self._release()
            return
        # Those that an adapter holds in eval mode are not in train mode, and stay with it.
        self._held += [norm.eval() for norm in self._norms if norm.training]

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._release()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._release()

    def _release(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        for norm in self._held:
            norm.train()
        self._frozen, self._norms, self._held = [], [], []


def _refuse_waiting(trainer: Trainer) -> None:
    wrapped = trainer.strategy.model if isinstance(trainer.strategy, DDPStrategy) else None
    if isinstance(wrapped, nn.parallel.DistributedDataParallel) and not wrapped.find_unused_parameters:
        raise ValueError(
            "`HeadFirst` needs DDP to go on without the gradients of frozen parameters. Pass "
            'Trainer(strategy="ddp_find_unused_parameters_true").'
        )


def _with_parameters(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if name and any(True for _ in part.parameters())]
