"""Rehearse a small memory that holds every class alike."""

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.strategies._memory import MemoryStrategy, quotas
from lightning_mixcd.strategies._needs import column_of

__all__ = ["GDumbMemory"]


class GDumbMemory(MemoryStrategy):
    """Keep equally many random samples of each class, and draw from these uniformly.

    What the greedy balancing sampler of GDumb (Prabhu et al., ECCV 2020) keeps of a shuffled pool. Only the
    memory is GDumb's: the model is finetuned, not trained anew.

    Args:
        memory_size: Samples in the memory, at least 1 and at most the pool's size.

    Raises:
        ValueError: If `memory_size` is out of range, or the ledger has no `label` column.

    Example:
        >>> import torch
        >>> ledger = Ledger.from_arrays(correct=[True] * 4, loss=[0.1] * 4, label=[0, 0, 0, 1])
        >>> strategy = GDumbMemory(2)
        >>> strategy.setup(4, ledger, seed=0)
        >>> 3 in strategy.draw(2, signal=None, generator=torch.Generator()).tolist()
        True
    """

    needs_columns = ("label",)

    @override
    def choose(self, ledger: Ledger, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        column_of(ledger, "label", self)
        classes = ByLabel().bins(ledger)
        shares = quotas(np.bincount(classes), self.memory_size)
        chosen = [
            generator.choice(np.flatnonzero(classes == k), share, replace=False)
            for k, share in enumerate(shares)
        ]
        return np.concatenate(chosen)
