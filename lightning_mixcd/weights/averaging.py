"""Weighted means of the weights of several models."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_mixcd.errors import check_range

__all__ = ["interpolate", "soup"]

State = Mapping[str, Any]


def interpolate(base: State, finetuned: State, alpha: float = 0.5) -> dict[str, Any]:
    """Return the weights at a point of the line between two models, `(1 - alpha) * base + alpha * finetuned`.

    WiSE-FT (Wortsman et al. 2021, arXiv:2109.01903). What is no floating point number, such as a counter of
    batches, is taken from the finetuned model.

    Args:
        base: State dict of the base model.
        finetuned: State dict of the finetuned model; the result has its dtypes and devices.
        alpha: 0 is the base model, 1 the finetuned one.

    Returns:
        A state dict. Entries that share memory in both models, as tied weights do, share it here too.

    Raises:
        ValueError: If `alpha` is not in [0, 1], or the models do not have the same entries and shapes.

    Example:
        >>> interpolate({"w": torch.tensor(0.0)}, {"w": torch.tensor(4.0)}, 0.25)
        {'w': tensor(1.)}
    """
    check_range("[0, 1]", "0 is the base model, 1 the finetuned one.", alpha=alpha)
    return _mean([base, finetuned], [1 - alpha, alpha])


def soup(states: Sequence[State]) -> dict[str, Any]:
    """Return the mean of the weights of several models that were finetuned from the same base.

    A uniform model soup (Wortsman et al. 2022, arXiv:2203.05482). What is no floating point number is taken
    from the last.

    Args:
        states: Their state dicts, one or more.

    Returns:
        A state dict.

    Raises:
        ValueError: If there is none, or they do not have the same entries and shapes.

    Example:
        >>> soup([{"w": torch.tensor(value)} for value in (1.0, 2.0, 6.0)])
        {'w': tensor(3.)}
    """
    if not states:
        raise ValueError("`states` must have at least one state dict, got none.")
    return _mean(states, [1 / len(states)] * len(states))


def _mean(states: Sequence[State], shares: Sequence[float]) -> dict[str, Any]:
    for state in states:
        _refuse_others(state, states[-1])
    made: dict[Hashable, Any] = {}
    mean = {}
    for name, last in states[-1].items():
        values = [state[name] for state in states]
        if not isinstance(last, Tensor) or not (last.is_floating_point() or last.is_complex()):
            mean[name] = last
            continue
        place = tuple(_place(value) for value in values)
        if place not in made:
            made[place] = _mean_of(values, shares)
        mean[name] = made[place]
    return mean


def _mean_of(values: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    last = values[-1].detach()
    mean = torch.zeros_like(last, dtype=torch.promote_types(last.dtype, torch.float32))
    for value, share in zip(values, shares, strict=True):
        if share:  # a model without one counts for nothing, not even where it is infinite
            mean.add_(value.detach().to(mean), alpha=share)
    return mean.to(last.dtype)


def _place(value: Tensor) -> Hashable:
    """Return what tells apart tensors that are not the same memory."""
    storage = value.untyped_storage().data_ptr()
    return storage, value.storage_offset(), value.shape, value.stride(), value.dtype, value.device


def _refuse_others(state: State, last: State) -> None:
    names = sorted(state.keys() ^ last.keys())
    if names:
        raise ValueError(
            f"The models must have the same entries; these are in one alone: {', '.join(names[:5])}"
            f"{' ...' if len(names) > 5 else ''}. Merge adapters into the weights first, and strip prefixes."
        )
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape != last[name].shape:
            raise ValueError(
                f"`{name}` must have the same shape in all models, got {tuple(value.shape)} and "
                f"{tuple(last[name].shape)}. Leave a head that was replaced out of all of them."
            )
