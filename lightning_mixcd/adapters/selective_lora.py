"""Low-rank adaptation where the data decide which layers are adapted."""

import logging
from collections.abc import Collection
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from typing_extensions import override

from lightning_mixcd.adapters._lora import ADAPTER, blocks_of, parameters_of
from lightning_mixcd.adapters._lora_scores import Gated, Scores
from lightning_mixcd.adapters.lora import LoRA
from lightning_mixcd.errors import check_number, check_range, check_whole
from lightning_mixcd.scaling import check_unscaled
from lightning_mixcd.wiring import held_by

__all__ = ["SelectiveLoRA"]

SCORES = "mixcd_scores"
logger = logging.getLogger(__name__)


class SelectiveLoRA(LoRA):
    """Low-rank blocks with a learnable score each; those with a low score do nothing, and can be taken out.

    Layer `W` becomes `W + 1[s >= threshold] alpha / rank * B A`; the gradient passes the indicator as if it
    were `s`, so a block that is out can come back. After a warm-up, `sparsity * sum max(s, 0)` over all
    blocks is part of the loss, and pulls scores down; its gradient is added as such, so the logged loss does
    not show it. A layer whose block is out is exactly the pretrained one.

    Selective LoRA (arXiv:2501.15377), after TAPS (Wallingford et al. 2022, arXiv:2203.16708).

    Args:
        sparsity: How hard each score is pulled down.
        warmup_steps: Optimizer steps before it does; until then blocks learn, and scores say what they are
            worth.
        most_active: Largest share of blocks that act once the warm-up is over, at least one block: those with
            the highest scores.
        threshold: Least score of a block that acts.
        start: Where scores begin.
        **settings: As of `LoRA`.

    Raises:
        ValueError: If a number is out of range; and as of `LoRA`.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> adapter = SelectiveLoRA(most_active=0.05, at_end="merge")
        >>> trainer = Trainer(callbacks=[adapter], logger=False)
    """

    def __init__(
        self,
        *,
        sparsity: float = 0.05,
        warmup_steps: int = 100,
        most_active: float = 1.0,
        threshold: float = 0.1,
        start: float = 0.15,
        **settings: Any,  # noqa: ANN401 -- as of `LoRA`
    ) -> None:
        super().__init__(**settings)
        check_whole(warmup_steps=warmup_steps)
        check_number(sparsity=sparsity, threshold=threshold, start=start)
        if sparsity < 0 or warmup_steps < 0:
            raise ValueError(
                f"`sparsity` and `warmup_steps` must be 0 or more, got {sparsity} and {warmup_steps}. Use "
                "`LoRA` for blocks that always act."
            )
        check_range("(0, 1]", "Pass 1 for no such limit.", most_active=most_active)
        if not 0 < threshold <= start:
            raise ValueError(
                f"`threshold` must be positive and at most `start`, got {threshold} and {start}. Blocks that "
                "begin below it never learn."
            )
        self.sparsity, self.warmup_steps, self.most_active = sparsity, warmup_steps, most_active
        self.threshold, self.start = threshold, start

    @override
    def inject(self, module: LightningModule) -> Collection[nn.Parameter]:
        trained = super().inject(module)
        if _scores_of(module) is None:
            blocks = blocks_of(module).values()
            scores = Scores(len(blocks), start=self.start, threshold=self.threshold)
            module.add_module(SCORES, scores.to(module.device))
            for number, block in enumerate(blocks):
                block.lora_B[ADAPTER] = Gated(block.lora_B[ADAPTER], scores, number)
        return [*trained, *_scores(module).parameters()]

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if trainer.global_step < self.warmup_steps:
            return
        scores = _scores(pl_module).scores
        if scores.grad is None or scores not in held_by(optimizer):
            return
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            check_unscaled(optimizer)
        scores.grad.add_(scores.detach() > 0, alpha=self.sparsity)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        scores = _scores(pl_module)
        if trainer.global_step >= self.warmup_steps:
            # Not one block less for a product such as 0.29 x 100.
            scores.raise_bar(max(1, int(self.most_active * len(scores.scores) + 1e-9)))
        every: int = getattr(trainer, "log_every_n_steps", 0)
        if every and trainer.global_step % every == 0:
            pl_module.log("adapter/active_share", scores.active().float().mean())

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        blocks = blocks_of(pl_module)
        self.active_blocks = tuple(self.acting(pl_module))
        idle = {*blocks} - {*self.active_blocks}
        without = sum(p.numel() for name in idle for p in parameters_of(blocks[name]))
        # Scores have done their work.
        self.active_parameters = self.trainable_parameters - without - len(blocks)
        names = ", ".join(self.active_blocks)
        logger.info("%d of %d blocks act: %s", len(self.active_blocks), len(blocks), names)

    @override
    def acting(self, module: nn.Module) -> list[str]:
        names, scores = super().acting(module), _scores_of(module)
        if scores is None:
            return names
        return [name for name, acts in zip(names, scores.active().tolist(), strict=True) if acts]

    @override
    def prune(self, module: nn.Module) -> None:
        super().prune(module)
        for block in blocks_of(module).values():
            if isinstance(gated := block.lora_B[ADAPTER], Gated):
                block.lora_B[ADAPTER] = gated.layer
        if _scores_of(module) is not None:
            delattr(module, SCORES)


def _scores_of(module: nn.Module) -> Scores | None:
    return getattr(module, SCORES, None)


def _scores(module: nn.Module) -> Scores:
    scores = _scores_of(module)
    assert scores is not None  # noqa: S101 -- made by `inject`
    return scores
