"""Rehearse a small memory whose class means are those of the pool."""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize
from typing_extensions import override

from lightning_mixcd.ledger.columns import Array
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.strategies._memory import MemoryStrategy, quotas
from lightning_mixcd.strategies._needs import column_of

__all__ = ["HerdingMemory", "herd"]


class HerdingMemory(MemoryStrategy):
    """Keep the samples of each class whose mean stays closest to its mean, and draw from these uniformly.

    Features are brought to length 1. Samples of a class are picked greedily, so those of a smaller memory are
    the first of a larger one. Rebuffi et al., "iCaRL" (CVPR 2017), algorithm 4.

    Args:
        memory_size: Samples in the memory, at least 1 and at most the pool's size; shared out among the
            classes as evenly as their sizes allow.

    Raises:
        ValueError: If `memory_size` is out of range, or the ledger has no `label` or no `features` column.

    Example:
        >>> features = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
        >>> ledger = Ledger.from_arrays([True] * 3, [0.1] * 3, label=[0, 0, 0], features=features)
        >>> strategy = HerdingMemory(1)
        >>> strategy.setup(3, ledger, seed=0)
        >>> strategy.draw(1, signal=None, generator=torch.Generator())
        tensor([1])
    """

    needs_columns = ("label", "features")

    @override
    def choose(self, ledger: Ledger, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        column_of(ledger, "label", self)
        features, classes = column_of(ledger, "features", self, ndim=2), ByLabel().bins(ledger)
        chosen = []
        for k, share in enumerate(quotas(np.bincount(classes), self.memory_size)):
            members = np.flatnonzero(classes == k)
            chosen.append(members[herd(features[members], share)])
        return np.concatenate(chosen)


def herd(features: Array, n: int) -> npt.NDArray[np.int64]:
    r"""Pick rows one after the other so that the mean of those picked stays closest to the mean of all.

    The next is $\arg\min_x \lVert \mu - (x + \sum \text{picked}) / (j + 1) \rVert$ after j picks.

    Args:
        features: One vector per sample, brought to length 1 here, `(m, d)`.
        n: How many to pick, at most m.

    Returns:
        Distinct rows in the order of picking, `(n,)`.

    Example:
        >>> herd(np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), 2)
        array([1, 2])
    """
    rows = normalize(torch.from_numpy(features.astype(np.float64))).numpy()
    mean, squares = rows.mean(axis=0), np.square(rows).sum(axis=1)
    open_, missing, picked = np.ones(len(rows), dtype=bool), np.zeros_like(mean), []
    for _ in range(n):
        # What the next pick should be: (j + 1) times the mean, less those picked.
        missing = missing + mean
        distance = np.where(open_, squares - 2 * (rows @ missing), np.inf)
        picked.append(int(distance.argmin()))
        open_[picked[-1]] = False
        missing = missing - rows[picked[-1]]
    return np.array(picked, dtype=np.int64)
