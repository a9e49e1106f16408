"""Plain low-rank adaptation."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from typing_extensions import override

from lightning_mixcd.adapters._lora import (
    ADAPTER,
    add_blocks,
    blocks_of,
    find_heads,
    find_layers,
    parameters_of,
    save_blocks,
    take_out,
)
from lightning_mixcd.adapters.base import Adapter
from lightning_mixcd.errors import check_number, check_whole

__all__ = ["LoRA"]

ENDS = ("keep", "prune", "merge")


class LoRA(Adapter):
    """Trains a low-rank block beside each layer, and the head; everything else stays as it was pretrained.

    LoRA (Hu et al. 2022, arXiv:2106.09685): layer `W` becomes `W + alpha / rank * B A`, where `B` begins as
    zero. The blocks are those of `peft`, for linear layers and convolutions of any module.

    A module that has blocks already, from an earlier `fit`, goes on with them, at their `rank` and `alpha`.

    Args:
        rank: Rank of a block.
        alpha: Scale of what a block does, times the rank; by default the rank, for a scale of 1.
        targets: Layers that get a block, by the last parts of their names, such as `("query", "value")`; by
            default all that may have one, outside of the heads.
        heads: Names of submodules that are trained in full and get no block, as in `named_modules()`; by
            default the last linear layer, unless that shares its weight, as in many language models.
        at_end: What becomes of the blocks after `fit`: `"keep"` leaves them, so that checkpoints and the
            module go together; `"prune"` takes out those that do nothing; `"merge"` adds them to the weights,
            so that the module has the layers that it had before.
        seed: Seed of the blocks' weights.

    Raises:
        ValueError: If a number is out of range or `at_end` is no known word; at the start of `fit`, if heads
            or targets are not there, or cannot have blocks, or blocks are there with other settings.
        ModuleNotFoundError: At the start of `fit`, if `peft` is not installed.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[LoRA(rank=4, at_end="merge")], logger=False)
    """

    def __init__(
        self,
        *,
        rank: int = 8,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        heads: Sequence[str] | None = None,
        at_end: Literal["keep", "prune", "merge"] = "keep",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_whole(rank=rank, seed=seed)
        if alpha is not None:
            check_number(alpha=alpha)
        if rank < 1 or (alpha is not None and alpha <= 0):
            raise ValueError(
                f"`rank` must be at least 1 and `alpha` positive, got {rank} and {alpha}. The defaults are 8 "
                "and the rank."
            )
        if at_end not in ENDS:
            raise ValueError(f"`at_end` must be one of {ENDS}, got {at_end!r}. Pass one of them.")
        self.rank, self.alpha = rank, float(rank if alpha is None else alpha)
        self.at_end, self.seed = at_end, seed
        # One name is a sequence too, of letters.
        self.targets = [targets] if isinstance(targets, str) else targets
        self.heads = [heads] if isinstance(heads, str) else heads

    @override
    def inject(self, module: LightningModule) -> Collection[nn.Parameter]:
        heads = find_heads(module, self.heads).values()
        if not blocks_of(module):
            layers = find_layers(module, self.targets, heads)
            add_blocks(module, layers, rank=self.rank, alpha=self.alpha, seed=self.seed)
        blocks = blocks_of(module).values()
        sizes = {(block.r[ADAPTER], block.lora_alpha[ADAPTER]) for block in blocks}
        if sizes != {(self.rank, self.alpha)}:
            raise ValueError(
                f"`rank` and `alpha` must be those of the blocks that the module has, {sizes}, got "
                f"{self.rank} and {self.alpha}. Pass these, or `merge` the blocks first."
            )
        return [*self._in_full(heads), *(p for block in blocks for p in parameters_of(block))]

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.at_end == "merge":
            self.merge(pl_module)
        elif self.at_end == "prune" and stage == "fit":
            self.prune(pl_module)
        self.release()

    def acting(self, module: nn.Module) -> list[str]:
        """Name the layers whose blocks do something.

        Args:
            module: The module.

        Returns:
            Their names.
        """
        return [*blocks_of(module)]

    def prune(self, module: nn.Module) -> None:
        """Take out the blocks that do nothing; outputs stay what they are.

        Args:
            module: The module.
        """
        take_out(module, {*blocks_of(module)} - {*self.acting(module)}, merge=False)

    def merge(self, module: nn.Module) -> None:
        """Add the blocks to the weights of their layers; outputs stay what they are, but for rounding.

        Args:
            module: The module.
        """
        self.prune(module)
        take_out(module, [*blocks_of(module)], merge=True)

    def save(self, module: nn.Module, folder: str | Path, *, part: str = "") -> None:
        """Save the blocks that do something, and heads, as `peft` does.

        `peft.PeftModel.from_pretrained(base, folder)` puts them into a base model.

        Args:
            module: The module.
            folder: Where to; made if need be.
            part: The submodule that is the base model there, such as `"network"`; by default the module.
        """
        whole = module.get_submodule(part)
        layers = {module.get_submodule(name) for name in self.acting(module)}
        heads = {*find_heads(module, self.heads).values()}
        save_blocks(whole, folder, layers, heads)
