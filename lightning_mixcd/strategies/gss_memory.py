"""Rehearse a small memory of samples whose gradients differ."""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import normalize
from typing_extensions import override

from lightning_mixcd.errors import check_counts
from lightning_mixcd.functional._chunks import chunks
from lightning_mixcd.ledger.columns import Array
from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.strategies._last_layer import LastLayerGradients
from lightning_mixcd.strategies._memory import MemoryStrategy
from lightning_mixcd.strategies._needs import column_of

__all__ = ["GSSMemory", "gradient_factors"]

CHUNK = 1 << 12
FIRST_SCORE = 0.1
# A sample with score 0 would never be replaced.
LEAST_SCORE = 1e-6


class GSSMemory(MemoryStrategy):
    r"""Keep samples whose gradients point in different directions, and draw from these uniformly.

    The pool passes by once, in random order. A sample's score is its highest cosine with the gradients of
    some random samples of the memory, plus 1. The first M samples are taken. Later ones are taken if their
    highest cosine is below 0: a victim is drawn in proportion to the scores $s$ in memory, and replaced with
    probability $s_\text{victim} / (s_\text{victim} + s_\text{new})$. Aljundi et al., arXiv:1903.08671,
    algorithm 2 (GSS-Greedy).

    Gradients are those of the cross-entropy by weights and biases of the last layer, at the base model. They
    follow from the ledger's logits and features, so there is no backward pass.

    Args:
        memory_size: Samples in the memory, at least 1 and at most the pool's size.
        compared: How many samples of the memory each new one is compared with, at least 1.

    Raises:
        ValueError: If an argument is out of range, or the ledger lacks a column, or has labels that are no
            classes of its logits.

    Example:
        >>> ledger = Ledger.from_arrays(correct=[True] * 3, loss=[0.1] * 3, label=[0, 1, 0])
        >>> ledger = ledger.with_columns(logits=np.eye(2)[[0, 1, 0]], features=np.ones((3, 4)))
        >>> strategy = GSSMemory(2)
        >>> strategy.setup(3, ledger, seed=0)
        >>> strategy.n_available
        2
    """

    needs_columns = ("label", "features", "logits")

    def __init__(self, memory_size: int, *, compared: int = 10) -> None:
        super().__init__(memory_size)
        check_counts("The default is 10.", compared=compared)
        self.compared = compared

    @override
    def choose(self, ledger: Ledger, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        label = column_of(ledger, "label", self)
        logits, features = (column_of(ledger, name, self, ndim=2) for name in ("logits", "features"))
        if label.min() < 0 or label.max() >= logits.shape[1]:
            raise ValueError(
                f"Column `label` must name classes of `logits`, 0 to {logits.shape[1] - 1}, got values from "
                f"{label.min()} to {label.max()}. Number the classes as the model does."
            )
        order = generator.permutation(ledger.size)
        memory = _Memory(self.memory_size, logits.shape[1], features.shape[1] + 1)
        for rows in chunks(len(order), CHUNK):
            some = order[rows]
            factors = gradient_factors(logits[some], features[some], label[some])
            for index, error, feature in zip(some, *factors, strict=True):
                memory.offer(index, error, feature, self.compared, generator)
        return memory.index


class _Memory:
    """Samples, the factors of their gradients, and their scores."""

    def __init__(self, size: int, n_classes: int, n_features: int) -> None:
        self.index, self._n = np.zeros(size, dtype=np.int64), 0
        self._scores, self._errors = np.zeros(size), np.zeros((size, n_classes))
        self._features = np.zeros((size, n_features))

    def offer(
        self, index: int, error: Array, feature: Array, compared: int, generator: np.random.Generator
    ) -> None:
        score, place, full = FIRST_SCORE, self._n, self._n == len(self.index)
        if self._n:
            some = generator.choice(self._n, min(compared, self._n), replace=False)
            cosines = (self._errors[some] @ error) * (self._features[some] @ feature)
            score = max(LEAST_SCORE, cosines.max() + 1)
        if full:
            if score >= 1:
                return
            place = generator.choice(self._n, p=self._scores / self._scores.sum())
            if generator.random() * (self._scores[place] + score) >= self._scores[place]:
                return
        self.index[place], self._scores[place] = index, score
        self._errors[place], self._features[place] = error, feature
        self._n += not full


def gradient_factors(logits: Array, features: Array, label: Array) -> tuple[Array, Array]:
    """Split the gradient of each sample's cross-entropy by the last layer into its two factors.

    The cosine of two gradients is the product of the cosines of their factors.

    Args:
        logits: `(n, C)`.
        features: Input of the last layer, `(n, d)`.
        label: Class of each sample, `(n,)`.

    Returns:
        The factors, each brought to length 1, or 0 where there is no gradient, `(n, C)` and `(n, d + 1)`.
    """
    z, h = (torch.from_numpy(rows.astype(np.float64)) for rows in (logits, features))
    found = LastLayerGradients.of(z, torch.from_numpy(label.astype(np.int64)), h, bias=True)
    return normalize(found.errors).numpy(), normalize(found.inputs).numpy()
