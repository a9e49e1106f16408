"""What must hold for how a strategy learns."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from lightning_mixcd.strategies.base import Strategy
from lightning_mixcd.testing._rehearsal import Case, generator, outcome_of, rehearse
from lightning_mixcd.testing._support import require, same, saved_and_loaded
from lightning_mixcd.types import Outcome

__all__ = ["LEARNING_CHECKS"]


def _check_resume(case: Case) -> None:
    saved, loaded = case.start(), case.start()
    rehearse(saved, case)
    learnt = saved.state_dict()
    state = saved_and_loaded([learnt, saved.draw_state()], case.name)
    at_save = {key: value.clone() for key, value in learnt.items()}
    loaded.load_state_dict(state[0])  # type: ignore[index]
    loaded.load_draw_state(state[1])  # type: ignore[index]
    equal = same(saved.signal(), loaded.signal())
    on, resumed = (rehearse(strategy, case, first=4) for strategy in (saved, loaded))
    equal = equal and all(same(a, b) for a, b in zip(on, resumed, strict=True))
    require(
        equal and same(saved.signal(), loaded.signal()),
        f"{case.name} must go on from a checkpoint as if it had not stopped. Put what it learns into "
        "`state_dict`, and what draws leave behind into `draw_state`.",
    )
    require(same(learnt, at_save), f"{case.name} must not change in place what `state_dict` returned.")
    first, now = (
        {key: value.shape for key, value in state.items()} for state in (case.start().state_dict(), learnt)
    )
    require(
        first == now,
        f"`{case.name}.state_dict` must hold the same names and shapes from `setup` on, else a checkpoint is "
        f"taken for one of other options, got {first} and then {now}.",
    )


def _check_signal(case: Case) -> None:
    strategy = case.start()
    signals = []
    for step in range(4):
        signal = strategy.signal()
        signals.append((signal, None if signal is None else signal.clone()))
        rehearse(strategy, case, first=step, n_steps=1)
    require(
        all(same(signal, copied) for signal, copied in signals),
        f"What `{case.name}.signal` returned must never change in place: it may still be on its way to the "
        "host. Make a new tensor in `update`.",
    )


def _check_context(case: Case) -> None:
    strategy = case.start()
    index = _drawn(strategy, case)
    context, rolled = strategy.context(index), strategy.context(index.roll(1))
    for key, values in context.items():
        require(
            isinstance(values, Tensor) and values.device.type == "cpu" and len(values) == len(index),
            f"`{case.name}.context` must return tensors on the CPU with one row per sample, got "
            f"{key}={values!r}.",
        )
        require(
            same(values.roll(1, 0), rolled[key]),
            f"`{case.name}.context` must depend on each sample alone, but {key!r} depends on the order.",
        )


def _check_tally(case: Case) -> None:
    strategy = case.start()
    index = _drawn(strategy, case)
    outcome = outcome_of(strategy, index)
    given = [index.clone(), outcome.correct.clone(), {key: v.clone() for key, v in outcome.context.items()}]
    whole, half = strategy.tally(outcome), len(index) // 2
    parts = [strategy.tally(outcome_of(strategy, part)) for part in (index[:half], index[half:])]
    parts += [
        strategy.tally(replace(outcome, correct=torch.full_like(outcome.correct, fill))) for fill in (0, 1)
    ]
    shapes = {None if tally is None else tally.shape for tally in (whole, *parts)}
    require(
        len(shapes) == 1,
        f"`{case.name}.tally` must return the same shape whatever the outcome and its number of rows, or "
        f"always None, because it is summed over ranks, got {[s and tuple(s) for s in shapes]}.",
    )
    if whole is None or parts[0] is None or parts[1] is None:
        return
    require(
        # Sums of numbers that nearly cancel are only as exact as these.
        torch.allclose(
            whole.double(), parts[0].double() + parts[1].double(), atol=1e-6 * float(whole.abs().amax())
        ),
        f"`{case.name}.tally` must return sums: tallies of two halves must add up to the tally of the whole, "
        "else a run depends on the number of processes. Return sums and counts, and divide in `update`.",
    )
    copied = whole.clone()
    returned = strategy.update(whole, steps=1.0)  # type: ignore[func-returns-value]
    require(returned is None, f"`{case.name}.update` must return nothing, got {returned!r}.")
    rehearse(strategy, case)
    require(
        same(whole, copied) and same([index, outcome.correct, outcome.context], given),
        f"`{case.name}.tally` and `update` must not change their arguments, nor keep and change them later.",
    )


def _check_no_wait(case: Case) -> None:
    strategy = case.start()
    index = _drawn(strategy, case)
    seen = outcome_of(strategy, index)
    context = {key: values.to("meta") for key, values in seen.context.items()}
    loss = None if seen.loss is None else seen.loss.to("meta")
    try:
        tally = strategy.tally(Outcome(index.to("meta"), seen.correct.to("meta"), loss, context))
        if tally is not None:
            strategy.update(tally, steps=1.0)
        strategy.signal()
        strategy.metrics()
    except (RuntimeError, NotImplementedError) as error:
        raise AssertionError(
            f"{case.name} must learn on the device of the outcome and must not read values there, which "
            "waits for the device: no `.item()`, `.tolist()`, `.cpu()` or `if` on a tensor in `tally`, "
            "`update`, `signal` or `metrics`. What is known on the host before belongs into `context`. "
            f"{error}"
        ) from error


def _check_metrics(case: Case) -> None:
    strategy = case.start()
    rehearse(strategy, case)
    for key, value in strategy.metrics().items():
        good = isinstance(value, Tensor) and value.ndim == 0 and value.isfinite()
        require(good, f"`{case.name}.metrics` must return finite 0-dim tensors by name, got {key}={value!r}.")


def _drawn(strategy: Strategy, case: Case) -> Tensor:
    return strategy.draw(case.n(strategy), signal=strategy.signal(), generator=generator(0))


LEARNING_CHECKS: tuple[Callable[[Case], None], ...] = (
    _check_resume,
    _check_signal,
    _check_context,
    _check_tally,
    _check_no_wait,
    _check_metrics,
)
