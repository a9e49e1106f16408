"""Which blocks act: a learnable score each, compared with a bar."""

import torch
from torch import Tensor, nn

__all__ = ["Gated", "Scores"]


class Scores(nn.Module):
    """A score per block; those at or above the bar act.

    Args:
        n_blocks: Number of blocks, L.
        start: Where scores begin.
        threshold: Where the bar is, unless too many blocks are above it.

    Example:
        >>> scores = Scores(3, start=0.15, threshold=0.1)
        >>> scores.scores.data[1] = 0.05
        >>> scores.active().tolist()
        [True, False, True]
    """

    bar: Tensor

    def __init__(self, n_blocks: int, *, start: float, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.scores = nn.Parameter(torch.full((n_blocks,), start))
        self.register_buffer("bar", torch.tensor(threshold))

    def active(self) -> Tensor:
        """Return which blocks act, bool, `(L,)`."""
        return self.scores.detach() >= self.bar

    def indicator(self, block: int) -> Tensor:
        """Return 1 for a block that acts, else 0; its gradient goes straight through to the score.

        Args:
            block: Number of the block.

        Returns:
            The indicator, 0-dim.
        """
        score = self.scores[block]
        return (score.detach() >= self.bar).to(score.dtype) + (score - score.detach())

    @torch.no_grad()
    def raise_bar(self, most: int) -> None:
        """Put the bar where no more than some blocks are at it or above; nothing waits for the device.

        Of equal scores, none acts if there is no room for all.

        Args:
            most: How many blocks may act.
        """
        if most < len(self.scores):
            next_best = self.scores.topk(most + 1).values[-1]
            above = torch.nextafter(next_best, torch.full_like(next_best, torch.inf))
            self.bar.copy_(above.clamp(min=self.threshold))


class Gated(nn.Module):
    """The second layer of a block, for `peft` to use in its place: with an input of zeros, or as it was.

    Args:
        layer: The layer, which has no bias.
        scores: The scores of all blocks.
        block: Number of the block.
    """

    def __init__(self, layer: nn.Module, scores: Scores, block: int) -> None:
        super().__init__()
        self.layer, self.block = layer, block
        self._scores = (scores,)  # not as a submodule, which each block would save again

    @property
    def weight(self) -> Tensor:
        """Weight of the layer as it acts, which is what a merge adds up."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)  # noqa: S101 -- a linear layer or a convolution
        return weight * self._scores[0].indicator(self.block)

    def forward(self, x: Tensor) -> Tensor:
        """Run the layer.

        Args:
            x: What the first layer of the block put out.

        Returns:
            What the block adds, or zeros.
        """
        # Scores stay where they are when a copy of the head is run elsewhere.
        indicator = self._scores[0].indicator(self.block).to(x.device)
        added: Tensor = self.layer(x * indicator)
        return added
