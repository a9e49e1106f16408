"""Conformance of strategies."""

from collections.abc import Callable

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.strategies.base import Strategy
from lightning_mixcd.testing._draws import DRAW_CHECKS
from lightning_mixcd.testing._learning import LEARNING_CHECKS
from lightning_mixcd.testing._rehearsal import Case
from lightning_mixcd.testing._screening import SCREENING_CHECKS
from lightning_mixcd.testing._support import factory, require, same, saved_and_loaded, toys, untouched_chance

__all__ = ["check_strategy"]


def check_strategy(
    strategy: Strategy | Callable[[], Strategy], *, ledger: Ledger | None = None, chance: bool = True
) -> None:
    """Check that draws are well formed and repeatable, that state is complete, and that learning adds up.

    What is drawn must depend on signal, generator and `draw_state` alone; what is learnt must be the same
    whether one process or many saw the outcomes; neither may touch global random state. What a `Screening`
    chooses among candidates must be distinct, repeatable, and found on the device.

    Args:
        strategy: The strategy, or a function that makes one.
        ledger: What to check it on, if it needs columns of its own; else the toy ledgers, of which its
            `setup` may refuse any but the first with a `ValueError`.
        chance: Whether other seeds should give other draws.

    Raises:
        AssertionError: If a rule is broken; the message says which and how to keep it.

    Example:
        >>> from lightning_mixcd.strategies import MixCD
        >>> check_strategy(MixCD())
    """
    make = factory(strategy, Strategy)  # type: ignore[type-abstract]  # only compared with
    name = type(make()).__name__
    with untouched_chance(name):
        for toy in toys(ledger, lambda toy: _set_up(make(), toy), name):
            case = Case(make, toy, name, chance)
            _check_needs(case)
            if not make().rehearses:
                continue
            for check in (*DRAW_CHECKS, *LEARNING_CHECKS, *SCREENING_CHECKS):
                check(case)


def _set_up(strategy: Strategy, ledger: Ledger) -> None:
    strategy.setup(ledger.size, ledger, seed=0)


def _check_needs(case: Case) -> None:
    strategy, name = case.make(), case.name
    if not strategy.needs_ledger:
        try:
            strategy.setup(case.ledger.size, None, seed=0)
        except Exception as error:
            raise AssertionError(
                f"`{name}.setup` must work without a ledger, or the class must say `needs_ledger = True`. "
                f"It raised {error!r}."
            ) from error
    every = strategy.refresh_every_n_steps
    require(
        every is None or every >= 1,
        f"`{name}.refresh_every_n_steps` must be None or at least 1, got {every}.",
    )
    # Also a strategy that never draws is asked for its state at every checkpoint.
    started = case.start()
    state = {"learnt": started.state_dict(), "draw": started.draw_state()}
    require(same(saved_and_loaded(state, name), state), f"{name}'s state must come back as it was saved.")
