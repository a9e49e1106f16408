"""Rehearse at random."""

from typing_extensions import override

from lightning_mixcd.functional._chunks import Bins
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._binned import BinnedStrategy, one_bin, some_correct

__all__ = ["Uniform", "UniformCorrect"]


class Uniform(BinnedStrategy):
    """Every pool sample alike: experience replay, the control that is hard to beat.

    Of `Streams`, in proportion to their sizes.

    Example:
        >>> import torch
        >>> strategy = Uniform()
        >>> strategy.setup(100, None, seed=0)
        >>> strategy.draw(4, signal=None, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([4])
    """

    @override
    def assign(self, n_pool: int, ledger: Ledger | None) -> tuple[Bins, int]:
        return one_bin(n_pool), 1


class UniformCorrect(BinnedStrategy):
    """Every base-correct pool sample alike.

    A sample that the base model had wrong cannot be damaged; leaving these out is half of the idea of mix-cd,
    and this control has only that half. Of `Streams`, in proportion to their sizes.

    Raises:
        ValueError: If the ledger has no correct sample.

    Example:
        >>> import torch
        >>> strategy = UniformCorrect()
        >>> strategy.setup(3, Ledger.from_arrays(correct=[True, False, True], loss=[0.1, 2.0, 0.3]), seed=0)
        >>> sorted(strategy.draw(2, signal=None, generator=torch.Generator()).tolist())
        [0, 2]
    """

    needs_ledger = True

    @override
    def assign(self, n_pool: int, ledger: Ledger | None) -> tuple[Bins, int]:
        return one_bin(n_pool, some_correct(ledger).correct), 1
