"""What became of the base model's right and wrong answers: rates of flips between two models.

All rates come from one table of counts, `flip_table`, whose rows say what the base model had and whose
columns say what the model has now: 0 for wrong, 1 for right. A rate over nothing (no samples, or no
sample that the base model had right) is NaN: 0 and 1 would both claim an observation, and a mean over
such batches would be pulled towards the claim.
"""

import torch
from torch import Tensor

__all__ = [
    "collateral_damage_rate",
    "flip_table",
    "forgetting",
    "negative_flip_rate",
    "positive_flip_rate",
    "retention",
]


def flip_table(base_correct: Tensor, correct: Tensor) -> Tensor:
    """Count samples by correctness of the base model and of the model now.

    Args:
        base_correct: Whether the base model had each sample right, bool, `(N,)`.
        correct: Whether the model has it right now, bool, `(N,)`, on the same device.

    Returns:
        Counts, int64, `(2, 2)`: `table[base, now]`, where 0 is wrong and 1 is right.

    Raises:
        TypeError: If an argument is not a bool tensor.
        ValueError: If the arguments are not 1-d, or differ in length or device.

    Example:
        >>> flip_table(torch.tensor([True, True, True, False]), torch.tensor([True, True, False, True]))
        tensor([[0, 1],
                [1, 2]])
    """
    _check_flags("base_correct", base_correct)
    _check_flags("correct", correct)
    _check_pair(base_correct, correct)
    # Not `bincount`, which waits for the device to learn the size of its result.
    cells = (
        ~base_correct & ~correct,
        ~base_correct & correct,
        base_correct & ~correct,
        base_correct & correct,
    )
    return torch.stack(cells).sum(dim=1).view(2, 2)


def collateral_damage_rate(base_correct: Tensor, correct: Tensor) -> Tensor:
    """Share of what the base model had right that is wrong now.

    `(base right, now wrong) / (base right)`: the rate at which finetuning does collateral damage
    (Bai et al. 2024, arXiv:2402.08096). What counts as damage is theirs; to divide by the samples
    that can be damaged is our reading.

    Args:
        base_correct: Whether the base model had each sample right, bool, `(N,)`.
        correct: Whether the model has it right now, bool, `(N,)`.

    Returns:
        The rate in [0, 1], float32 scalar; NaN if the base model had none right.

    Raises:
        TypeError: If an argument is not a bool tensor.
        ValueError: If the arguments are not 1-d, or differ in length or device.

    Example:
        >>> collateral_damage_rate(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        tensor(0.5000)
    """
    return _collateral_damage_rate_compute(flip_table(base_correct, correct))


def retention(base_correct: Tensor, correct: Tensor) -> Tensor:
    """Share of what the base model had right that is still right.

    `(base right, now right) / (base right)`, which is one minus the collateral damage rate.

    Args:
        base_correct: Whether the base model had each sample right, bool, `(N,)`.
        correct: Whether the model has it right now, bool, `(N,)`.

    Returns:
        The rate in [0, 1], float32 scalar; NaN if the base model had none right.

    Raises:
        TypeError: If an argument is not a bool tensor.
        ValueError: If the arguments are not 1-d, or differ in length or device.

    Example:
        >>> retention(torch.tensor([True, True, False]), torch.tensor([True, True, False]))
        tensor(1.)
    """
    return _retention_compute(flip_table(base_correct, correct))


def negative_flip_rate(base_correct: Tensor, correct: Tensor) -> Tensor:
    """Share of all samples that went from right to wrong.

    `(base right, now wrong) / N` (NFR: Yan et al. 2021, arXiv:2011.09161).

    Args:
        base_correct: Whether the base model had each sample right, bool, `(N,)`.
        correct: Whether the model has it right now, bool, `(N,)`.

    Returns:
        The rate in [0, 1], float32 scalar; NaN if there are no samples.

    Raises:
        TypeError: If an argument is not a bool tensor.
        ValueError: If the arguments are not 1-d, or differ in length or device.

    Example:
        >>> base_correct = torch.tensor([True, True, False, False])
        >>> negative_flip_rate(base_correct, torch.tensor([True, False, False, True]))
        tensor(0.2500)
    """
    return _negative_flip_rate_compute(flip_table(base_correct, correct))


def positive_flip_rate(base_correct: Tensor, correct: Tensor) -> Tensor:
    """Share of all samples that went from wrong to right.

    `(base wrong, now right) / N`, the gain that is set against the negative flip rate
    (Yan et al. 2021, arXiv:2011.09161).

    Args:
        base_correct: Whether the base model had each sample right, bool, `(N,)`.
        correct: Whether the model has it right now, bool, `(N,)`.

    Returns:
        The rate in [0, 1], float32 scalar; NaN if there are no samples.

    Raises:
        TypeError: If an argument is not a bool tensor.
        ValueError: If the arguments are not 1-d, or differ in length or device.

    Example:
        >>> base_correct = torch.tensor([True, True, False, False])
        >>> positive_flip_rate(base_correct, torch.tensor([True, False, False, True]))
        tensor(0.2500)
    """
    return _positive_flip_rate_compute(flip_table(base_correct, correct))


def forgetting(base_correct: Tensor, correct: Tensor) -> Tensor:
    """Accuracy of the base model minus accuracy now.

    Equal to negative flip rate minus positive flip rate, so it can hide damage that gains
    elsewhere make up for; the collateral damage rate cannot.

    Args:
        base_correct: Whether the base model had each sample right, bool, `(N,)`.
        correct: Whether the model has it right now, bool, `(N,)`.

    Returns:
        The difference in [-1, 1], float32 scalar; below 0 if the model got better, NaN if there are
        no samples.

    Raises:
        TypeError: If an argument is not a bool tensor.
        ValueError: If the arguments are not 1-d, or differ in length or device.

    Example:
        >>> forgetting(torch.tensor([True, True, True, False]), torch.tensor([True, False, False, True]))
        tensor(0.2500)
    """
    return _forgetting_compute(flip_table(base_correct, correct))


def _collateral_damage_rate_compute(table: Tensor) -> Tensor:
    return _ratio(table[1, 0], table[1].sum())


def _retention_compute(table: Tensor) -> Tensor:
    return _ratio(table[1, 1], table[1].sum())


def _negative_flip_rate_compute(table: Tensor) -> Tensor:
    return _ratio(table[1, 0], table.sum())


def _positive_flip_rate_compute(table: Tensor) -> Tensor:
    return _ratio(table[0, 1], table.sum())


def _forgetting_compute(table: Tensor) -> Tensor:
    return _ratio(table[1, 0] - table[0, 1], table.sum())


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    # float32 whatever the default dtype: a run in bfloat16 would round rates to two or three digits.
    return numerator.float() / denominator.float()


def _check_flags(name: str, flags: Tensor) -> None:
    if not isinstance(flags, Tensor) or flags.dtype != torch.bool:
        got = flags.dtype if isinstance(flags, Tensor) else type(flags).__name__
        msg = f"`{name}` must be a bool tensor, got {got}. Compare first, as in `predictions == labels`."
        raise TypeError(msg)
    if flags.ndim != 1:
        msg = (
            f"`{name}` must have one entry per sample, shape (N,), got {tuple(flags.shape)}. "
            f"Reduce the other dims, for example with `.all(dim=1)`."
        )
        raise ValueError(msg)


def _check_pair(base_correct: Tensor, correct: Tensor) -> None:
    if base_correct.shape != correct.shape:
        msg = (
            f"`base_correct` and `correct` must describe the same samples, got {len(base_correct)} and "
            f"{len(correct)} entries. Index the ledger with the pool indices of the batch."
        )
        raise ValueError(msg)
    if base_correct.device != correct.device:
        msg = (
            f"`base_correct` and `correct` must be on one device, got {base_correct.device} and "
            f"{correct.device}. Move one of them with `.to(device)`."
        )
        raise ValueError(msg)
