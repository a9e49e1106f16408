"""Gradients of single pool rows at the base model's weights."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from lightning_mixcd.errors import check_counts
from lightning_mixcd.functional.sampling import permute, stream_key
from lightning_mixcd.penalties.base import Start
from lightning_mixcd.protocols import Seen

__all__ = [
    "Labels",
    "Objective",
    "check_rows",
    "gradients_of_rows",
    "log_likelihood",
    "mean_over_rows",
    "refuse_indifference",
]

Labels = Literal["sampled", "all", "true", "predicted"]
# From a seed of the row and what it showed to values to differentiate, `(k,)`.
Objective: TypeAlias = Callable[[int, Seen], Tensor]


def check_rows(n_samples: int, labels: Labels = "sampled") -> None:
    """Refuse what says nothing of pool rows.

    Args:
        n_samples: How many.
        labels: Whose likelihood.

    Raises:
        ValueError: If one is out of range.
    """
    check_counts("Some hundreds are usual.", n_samples=n_samples)
    if labels not in get_args(Labels):
        raise ValueError(f"`labels` must be one of {get_args(Labels)}, got {labels!r}.")


def gradients_of_rows(
    start: Start, n_samples: int, objective: Objective, *, title: str
) -> Iterator[dict[str, Tensor]]:
    """Differentiate something of random pool rows, one by one, shared out over processes.

    Args:
        start: What there is to know.
        n_samples: How many rows, over all processes.
        objective: What is differentiated.
        title: Of the progress bar.

    Yields:
        Gradient by name of each trainable parameter, k of them for each row of this process.

    Raises:
        ValueError: If the pool is smaller, or a gradient is not finite.
    """
    if n_samples > start.n_pool:
        raise ValueError(
            f"`n_samples` must be at most the size of the pool ({start.n_pool}), got {n_samples}. Lower it."
        )
    index = permute(range(n_samples), start.n_pool, stream_key(start.seed, 0))
    mine = index[start.rank :: start.world_size].tolist()
    batches = start.batches([i] for i in mine)
    progress = tqdm(batches, desc=title, unit="sample", total=len(mine), disable=start.rank > 0)
    for i, row in zip(mine, progress, strict=True):
        of_row = partial(objective, stream_key(start.seed, i))
        for gradient in start.look.gradients_by_row(row, of_row):
            if not torch.stack([_finite(values) for values in gradient.values()]).all():
                raise ValueError(
                    f"The gradient of each pool row must be finite, got inf or NaN for pool index {i}, which "
                    "would make all weights NaN. Return finite `losses` and logits; a mean over what a mask "
                    "leaves of a row divides by 0 where that is nothing: `mask.sum().clamp(min=1)`."
                )
            yield gradient


def _finite(values: Tensor) -> Tensor:
    # Sparse ones are refused later, with all else that needs dense ones.
    return (values.coalesce().values() if values.is_sparse else values).isfinite().all()


def refuse_indifference(importances: Iterable[Tensor]) -> None:
    """Refuse a model that no row asks to keep any weight.

    Args:
        importances: Means over the rows of all processes.

    Raises:
        ValueError: If all are 0.
    """
    if not any(values.any() for values in importances):
        raise ValueError(
            "The gradients of single pool rows must tell which weights matter, got 0 for every weight and "
            "row, so that nothing would be held. A contrastive loss, which compares the rows of a batch, is "
            "the same for a row alone whatever the weights. Use `L2SP`, which looks at no rows."
        )


def mean_over_rows(
    start: Start,
    n_samples: int,
    objective: Objective,
    *,
    measure: Callable[[Tensor], Tensor],
    title: str,
) -> dict[str, Tensor]:
    """Average something of the gradients of rows; for the arguments see `gradients_of_rows`.

    Args:
        start: What there is to know.
        n_samples: How many rows.
        objective: What is differentiated.
        measure: What is averaged: a function of each element.
        title: Of the progress bar.

    Returns:
        The sum over the values of a row, averaged over rows, float32, by name of each trainable parameter.

    Raises:
        ValueError: If all are 0.
    """
    named = start.module.named_parameters()
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in named if p.requires_grad}
    for gradient in gradients_of_rows(start, n_samples, objective, title=title):
        for name, values in gradient.items():
            sums[name] += measure(values.float())
    means = {name: start.total(values) / n_samples for name, values in sums.items()}
    refuse_indifference(means.values())
    return means


def log_likelihood(seed: int, seen: Seen, *, labels: Labels) -> Tensor:
    """Return what a row's part of the Fisher information is the squared gradient of.

    Args:
        seed: Seed of the label's draw.
        seen: What the row showed.
        labels: Whose likelihood: "sampled", of a label drawn from the model's own distribution; "all", of
            each label, such that the sum of squares is the exact expectation over that distribution;
            "true", of the row's own label; "predicted", of the likeliest.

    Returns:
        Values, `(1,)`, or one for each label if of all.

    Raises:
        ValueError: If the training step put out no losses, for "true", or no logits of 2 classes or more, for
            the others.
    """
    if labels == "true":
        if seen.loss is None:
            raise ValueError(
                '`labels="true"` needs the loss of each row, and `training_step` gave none. Return `losses`.'
            )
        return -seen.loss
    if seen.logits is None or seen.logits.ndim != 2 or seen.logits.shape[1] < 2:
        raise ValueError(
            f'`labels="{labels}"` needs logits `(rows, classes)` of 2 classes or more, and `training_step` '
            f"gave {'none' if seen.logits is None else tuple(seen.logits.shape)}. Return them, or use "
            'labels="true", which needs losses only, or `MAS`, which takes outputs of any shape.'
        )
    likelihood = seen.logits[0].float().log_softmax(0)
    odds = likelihood.detach().exp()
    if labels == "all":
        return odds.sqrt() * likelihood
    if labels == "predicted":
        return likelihood.max()[None]
    drawn = torch.multinomial(odds.cpu(), 1, generator=torch.Generator().manual_seed(seed))
    return likelihood[drawn.to(likelihood.device)]
