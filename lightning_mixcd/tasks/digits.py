"""Real handwritten digits, upright and turned: a prior and a new task without any download."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.tensor_data import TensorDataModule

__all__ = ["Digits", "Shift", "digits_pairing", "digits_task"]

Shift = Literal["rot90", "rot180", "rot270", "invert", "flip", "transpose"]
SHIFTS: dict[Shift, Callable[[Tensor], Tensor]] = {
    "rot90": lambda images: images.rot90(1, (2, 3)),
    "rot180": lambda images: images.rot90(2, (2, 3)),
    "rot270": lambda images: images.rot90(3, (2, 3)),
    "invert": lambda images: 1 - images,
    "flip": lambda images: images.flip(3),
    "transpose": lambda images: images.transpose(2, 3),
}


@dataclass(frozen=True)
class Digits:
    """The 1,797 digits of scikit-learn's `load_digits`, dealt out to four sets without overlap.

    Images are `(1, 8, 8)` in [0, 1]; labels 0 to 9. The new task's images are shifted, its labels are not.

    Args:
        prior_train: Prior task, to pretrain on, and the pool to rehearse from.
        prior_test: Prior task, to measure forgetting.
        new_train: New task, to finetune on.
        new_test: New task, to measure what was learnt.

    Example:
        >>> digits = Digits.load(shift="invert")
        >>> [len(part) for part in (digits.prior_train, digits.prior_test, digits.new_train, digits.new_test)]
        [600, 600, 350, 247]
    """

    prior_train: TensorDataset
    prior_test: TensorDataset
    new_train: TensorDataset
    new_test: TensorDataset

    SIZES = (600, 600, 350, 247)

    @classmethod
    def load(cls, *, shift: Shift = "rot90", seed: int = 0) -> "Digits":
        """Load and deal out.

        Args:
            shift: What the new task does to its images.
            seed: Seed of the deal.

        Returns:
            The four sets.

        Raises:
            ImportError: If scikit-learn is not installed.
        """
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "The digits are those of scikit-learn. Install it with `pip install 'lightning-mixcd[demo]'`."
            ) from error

        images, labels = load_digits(return_X_y=True)
        x = torch.from_numpy(images).float().div(16).view(-1, 1, 8, 8)
        y = torch.from_numpy(labels).long()
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        # `Tensor.split` has no types.
        parts = torch.tensor_split(order, np.cumsum(cls.SIZES[:-1]).tolist())
        prior = [TensorDataset(x[part], y[part]) for part in parts[:2]]
        new = [TensorDataset(shifted(x[part], shift), y[part]) for part in parts[2:]]
        return cls(*prior, *new)


def shifted(images: Tensor, shift: Shift) -> Tensor:
    """Turn images into those of another task.

    Args:
        images: In [0, 1], square, `(N, 1, S, S)`.
        shift: What to do.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: If there is no such shift.
    """
    if shift not in SHIFTS:
        raise ValueError(f"`shift` must be one of {[*SHIFTS]}, got {shift!r}.")
    return SHIFTS[shift](images)


def digits_pairing(*, shift: Shift = "rot90", batch_size: int = 32, seed: int = 0) -> Pairing:
    """Upright digits, then shifted ones.

    Args:
        shift: What the new task does to its images.
        batch_size: Samples per batch, in both tasks.
        seed: Seed of the deal into sets.

    Returns:
        The pairing.

    Example:
        >>> len(digits_pairing(seed=1).pool)
        600
    """
    digits = Digits.load(shift=shift, seed=seed)
    prior = TensorDataModule(digits.prior_train, digits.prior_test, batch_size=batch_size)
    new = TensorDataModule(digits.new_train, digits.new_test, batch_size=batch_size)
    return Pairing(prior, new, digits.prior_train, prior.val_dataloader())


def digits_task(*, shift: Shift | None = None, batch_size: int = 32, seed: int = 0) -> TensorDataModule:
    """One task of a chain: upright digits, or shifted ones.

    Shifted tasks differ in the shift alone; they have the samples of the new task of `digits_pairing`, and
    upright digits those of its prior task.

    Args:
        shift: What is done to the images; nothing by default.
        batch_size: Samples per batch.
        seed: Seed of the deal into sets.

    Returns:
        The task.

    Example:
        >>> len(digits_task().train), len(digits_task(shift="rot180").train)
        (600, 350)
    """
    if shift is None:
        digits = Digits.load(seed=seed)
        return TensorDataModule(digits.prior_train, digits.prior_test, batch_size=batch_size)
    digits = Digits.load(shift=shift, seed=seed)
    return TensorDataModule(digits.new_train, digits.new_test, batch_size=batch_size)
