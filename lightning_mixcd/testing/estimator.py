"""Conformance of estimators."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lightning_mixcd.estimators.base import Estimator
from lightning_mixcd.testing._support import factory, require, same, saved_and_loaded, untouched_chance

__all__ = ["check_estimator"]

PLANTED = 0.2
ROWS = 400  # per bin and update
TOLERATED_ERRORS = 5


def check_estimator(
    estimator: Estimator | Callable[[], Estimator], *, n_bins: Sequence[int] = (1, 3, 10), learns: bool = True
) -> None:
    """Check that rates are rates at every time, that state is complete, and that planted rates are found.

    Args:
        estimator: The estimator, or a function that makes one.
        n_bins: Numbers of bins to reset it to, one after the other.
        learns: Whether it is expected to find rates that counts show.

    Raises:
        AssertionError: If a rule is broken; the message says which and how to keep it.

    Example:
        >>> from lightning_mixcd.estimators import DecayedBeta
        >>> check_estimator(DecayedBeta(halflife_steps=50))
    """
    make = factory(estimator, Estimator)  # type: ignore[type-abstract]  # only compared with
    name = type(make()).__name__
    reused = make()
    with untouched_chance(name):
        for k in n_bins:
            _check_rates(reused, k, name)
            _check_start(reused, make(), k, name)
            _check_state(make, k, name)
            _check_nothing_in_place(make(), k, name)
            _check_no_wait(make(), k, name)
            if learns:
                _check_learning(make(), k, name)


def _counts(k: int, update: int) -> tuple[Tensor, Tensor]:
    """Return damaged and seen samples of an update; some bins are not seen, and in the first none is."""
    seen = (torch.arange(k) + update) % 3 * min(update, 1)
    damaged = torch.minimum(seen, torch.arange(k) % 2)
    return damaged.float(), seen.float()


def _run(estimator: Estimator, k: int, first: int = 0) -> None:
    for update in range(first, first + 4):
        estimator.update(*_counts(k, update), steps=0.5)


def _check_rates(estimator: Estimator, k: int, name: str) -> None:
    estimator.reset(k)
    for update in range(5):
        rates = estimator.rates()
        good = isinstance(rates, Tensor) and rates.shape == (k,) and rates.is_floating_point()
        when = f"after {update} updates" if update else "before any update"
        require(
            good, f"`{name}.rates` must return floats of shape ({k},), one rate per bin, got {rates} {when}."
        )
        require(
            ((rates >= 0) & (rates <= 1)).all(),
            f"`{name}.rates` must be in [0, 1] and never NaN, got {rates.tolist()} {when}. Decide what a bin "
            "that was not seen returns, and do not divide by zero.",
        )
        estimator.update(*_counts(k, update), steps=1.0)


def _check_start(used: Estimator, fresh: Estimator, k: int, name: str) -> None:
    used.reset(k)
    fresh.reset(k)
    for estimator in (used, fresh):
        _run(estimator, k)
    require(same(used.rates(), fresh.rates()), f"`{name}.reset` must forget everything learnt before it.")


def _check_nothing_in_place(estimator: Estimator, k: int, name: str) -> None:
    estimator.reset(k)
    _run(estimator, k)
    rates, state, counts = estimator.rates(), estimator.state_dict(), _counts(k, 5)
    copies = [
        rates.clone(),
        {key: value.clone() for key, value in state.items()},
        *(c.clone() for c in counts),
    ]
    estimator.update(*counts, steps=1.0)
    _run(estimator, k)
    estimator.rates()
    unchanged = [same(a, b) for a, b in zip((rates, state, *counts), copies, strict=True)]
    require(
        unchanged[0] and unchanged[1],
        f"`{name}.update` must not change in place what `rates` or `state_dict` returned before: it may "
        "still be on its way to the host. Write `self.seen = self.seen + seen`, not `self.seen += seen`.",
    )
    require(all(unchanged), f"`{name}.update` must not change its arguments, nor keep and change them later.")


def _check_state(make: Callable[[], Estimator], k: int, name: str) -> None:
    saved, loaded = make(), make()
    saved.reset(k)
    loaded.reset(k)
    _run(saved, k)
    loaded.load_state_dict(saved_and_loaded(saved.state_dict(), name))  # type: ignore[arg-type]
    equal = same(saved.rates(), loaded.rates())
    for estimator in (saved, loaded):
        _run(estimator, k, first=4)
    require(
        equal and same(saved.rates(), loaded.rates()),
        f"{name} must go on from a checkpoint as if it had not stopped. Name every tensor that `update` "
        "replaces in `STATE`.",
    )


def _check_no_wait(estimator: Estimator, k: int, name: str) -> None:
    estimator.reset(k)
    damaged, seen = (counts.to("meta") for counts in _counts(k, 1))
    try:
        estimator.update(damaged, seen, steps=1.0)
        estimator.rates()
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(
            f"`{name}.update` and `rates` must stay on the device of the counts and must not read values, "
            "which waits for the device: no `.item()`, `.tolist()`, `.cpu()` or `if` on a tensor. Use "
            f"`torch.where`, and `.to(seen.device)` on tensors made before. {error}"
        ) from error


def _check_learning(estimator: Estimator, k: int, name: str) -> None:
    estimator.reset(k)
    generator = torch.Generator().manual_seed(0)
    planted = torch.linspace(PLANTED, 1 - PLANTED, k)
    for _ in range(50):
        damaged = torch.rand(k, ROWS, generator=generator).lt(planted[:, None]).sum(1)
        estimator.update(damaged.float(), torch.full((k,), float(ROWS)), steps=1.0)
    errors = (estimator.rates() - planted).abs() / (planted * (1 - planted) / ROWS).sqrt()
    require(
        (errors <= TOLERATED_ERRORS).all(),
        f"{name} must find planted rates within {TOLERATED_ERRORS} standard errors of one update of {ROWS} "
        f"samples per bin, got {estimator.rates().tolist()} for {planted.tolist()}. Pass `learns=False` if "
        "it is not meant to.",
    )
