"""What must hold for the draws of a strategy."""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_mixcd.strategies.base import Strategy
from lightning_mixcd.testing._rehearsal import Case, generator, outcome_of, rehearse
from lightning_mixcd.testing._support import require, same

__all__ = ["DRAW_CHECKS"]

ENOUGH_CHOICE = 10


def _check_contract(case: Case) -> None:
    strategy, n_pool = case.start(), case.ledger.size
    available = strategy.n_available
    require(
        isinstance(available, int) and 1 <= available <= n_pool,
        f"`{case.name}.setup` must set `n_available`, the number of samples that can be drawn, to between 1 "
        f"and {n_pool}, got {available!r}. Raise a `ValueError` if there is none.",
    )
    for seed, n in enumerate([1, case.n(strategy), available] * 3):
        index = strategy.select(n, signal=strategy.signal(), generator=generator(seed))
        _check_index(index, n, case)
        draws = strategy.select_round(2, n, signal=strategy.signal(), generator=generator(seed))
        require(
            isinstance(draws, Tensor) and draws.shape == (2, n),
            f"`{case.name}.select_round` must return a row of pool indices per draw, shape (2, {n}), got "
            f"{tuple(draws.shape) if isinstance(draws, Tensor) else type(draws).__name__}.",
        )
        for index in draws:
            _check_index(index, n, case)


def _check_index(index: Tensor, n: int, case: Case) -> None:
    select, n_pool = f"`{case.name}.select`", case.ledger.size
    good = isinstance(index, Tensor) and index.dtype == torch.int64 and index.device.type == "cpu"
    got = f"{index.dtype} on {index.device}" if isinstance(index, Tensor) else type(index).__name__
    require(good, f"{select} must return pool indices as an int64 tensor on the CPU, got {got}.")
    require(
        index.shape == (n,),
        f"{select} must return exactly `n` pool indices, shape ({n},), got {tuple(index.shape)}. "
        "If one rule finds too few, fill up by another.",
    )
    require(
        len(set(index.tolist())) == n, f"{select} must return distinct pool indices, got {index.tolist()}."
    )
    require(
        ((index >= 0) & (index < n_pool)).all(),
        f"{select} must return pool indices in [0, {n_pool}), got {index.tolist()}.",
    )


def _check_declared_needs(case: Case) -> None:
    strategy = case.start()
    index = strategy.draw(1, signal=strategy.signal(), generator=generator(0))
    try:
        strategy.tally(outcome_of(strategy, index))
    except Exception as error:
        raise AssertionError(
            f"`{case.name}.tally` must do with `correct` and what `context` returned, or the class must say "
            f"`needs_loss = True`. It raised {error!r}."
        ) from error


def _check_available(case: Case) -> None:
    strategy = case.start()
    n = strategy.n_available
    everything = set(strategy.draw(n, signal=strategy.signal(), generator=generator(0)).tolist())
    strays = {i for index in rehearse(case.start(), case, n_steps=6) for i in index.tolist()} - everything
    require(
        not strays,
        f"`{case.name}` must draw from the same `n_available` samples throughout: a draw of all {n} did not "
        f"hold {sorted(strays)[:5]}, which another draw held. Count in `setup` what can be drawn.",
    )


def _check_repeatable(case: Case) -> None:
    copied = type(case.ledger).from_arrays(**{name: case.ledger.column(name) for name in case.ledger.columns})
    drawn = rehearse(case.start(), case)
    require(
        _equal(drawn, rehearse(Case(case.make, copied, case.name, case.chance).start(), case)),
        f"{case.name} must draw the same for the same ledger and seeds. Take all chance from the `generator` "
        "of the draw and the `seed` of `setup`.",
    )
    strategy = case.start()
    if case.chance and strategy.n_available >= ENOUGH_CHOICE:
        require(
            not _equal(drawn, rehearse(case.start(seed=1), case, chance=1)),
            f"{case.name} must draw otherwise with other seeds. Use the `generator` of the draw, or pass "
            "`chance=False` if there is no chance in it.",
        )


def _check_starts_anew(case: Case) -> None:
    strategy = case.start()
    drawn = rehearse(strategy, case)
    strategy.setup(case.ledger.size, case.ledger, seed=0)
    anew = same(strategy.signal(), case.start().signal())
    require(
        anew and _equal(drawn, rehearse(strategy, case)),
        f"`{case.name}.setup` must start from the very start: the same object may serve a second run. Reset "
        "there whatever was learnt or drawn.",
    )


def _check_function_of_its_arguments(case: Case) -> None:
    strategy = case.start()
    rehearse(strategy, case)
    signal, state = strategy.signal(), strategy.draw_state()
    require(
        isinstance(state, Tensor) and state.dtype == torch.int64 and state.device.type == "cpu",
        f"`{case.name}.draw_state` must return an int64 tensor on the CPU, got {state!r}.",
    )
    copies = [None if t is None else t.clone() for t in (signal, state)]

    def draw(strategy: Strategy) -> Tensor:
        return strategy.draw(case.n(strategy), signal=signal, generator=generator(99))

    first = draw(strategy)
    require(
        same(signal, copies[0]) and same(state, copies[1]),
        f"`{case.name}.select` must not change `signal`, nor what `draw_state` returned. Return a copy "
        "there.",
    )
    strategy.load_draw_state(state)
    require(
        same(first, draw(strategy)),
        f"{case.name} must draw the same again after `load_draw_state`. Whatever one draw leaves behind for "
        "the next belongs into `draw_state`.",
    )
    strategy = case.start()
    strategy.load_draw_state(state)
    require(
        same(first, draw(strategy)),
        f"`{case.name}.select` must read what was learnt from `signal` alone. Else a draw depends on how far "
        "ahead of training it is made.",
    )


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(same(a, b) for a, b in zip(some, others, strict=True))


DRAW_CHECKS: tuple[Callable[[Case], None], ...] = (
    _check_contract,
    _check_declared_needs,
    _check_available,
    _check_repeatable,
    _check_starts_anew,
    _check_function_of_its_arguments,
)
