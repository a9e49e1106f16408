"""Strategies that break one rule each: the suite must say which."""

import random

import numpy as np
import pytest
import torch

from lightning_mixcd.strategies import Strategy
from lightning_mixcd.testing import check_strategy, toy_ledgers


class Good(Strategy):
    """Draws at random until half of a shuffled list is left, and counts what went wrong, twice over."""

    needs_loss = True

    def setup(self, n_pool, ledger, *, seed):
        self.n_available = n_pool
        self.order = torch.randperm(n_pool, generator=torch.Generator().manual_seed(seed))
        self.turn = torch.zeros(1, dtype=torch.int64)
        self.wrong = torch.zeros(2)

    def select(self, n, *, signal, generator):
        self.turn = self.turn + 1
        shift = int(self.turn) + int(signal.sum() * 10) + int(torch.randint(1000, (), generator=generator))
        return self.order.roll(shift)[:n]

    def context(self, index):
        return {"odd": index % 2}

    def tally(self, outcome):
        wrong = (~outcome.correct).float()
        return wrong.new_zeros(2).index_add_(0, outcome.context["odd"], wrong * (1 + outcome.loss))

    def update(self, tally, *, steps):
        self.wrong = self.wrong.to(tally.device) * 0.5**steps + tally

    def signal(self):
        return self.wrong

    def metrics(self):
        return {"wrong": self.wrong.sum()}

    def draw_state(self):
        return self.turn.clone()

    def load_draw_state(self, state):
        self.turn = state.clone()

    def state_dict(self):
        return {"wrong": self.wrong}

    def load_state_dict(self, state):
        self.wrong = state["wrong"]


def test_good_strategy_passes_as_class_instance_or_function():
    check_strategy(Good)
    check_strategy(Good())
    check_strategy(lambda: Good(), ledger=toy_ledgers()["few correct"])


BROKEN = []


def caught_by(message, **options):
    def register(kind):
        BROKEN.append(pytest.param(kind, message, options, id=kind.__name__))
        return kind

    return register


def good_select(self, n, signal, generator):
    return Good.select(self, n, signal=signal, generator=generator)


@caught_by(r"`NumPyIndex\.select` must return pool indices as an int64 tensor on the CPU, got ndarray")
class NumPyIndex(Good):
    def select(self, n, *, signal, generator):
        return good_select(self, n, signal, generator).numpy()


@caught_by(r"must return pool indices as an int64 tensor on the CPU, got torch\.int32 on cpu")
class ShortIndex(Good):
    def select(self, n, *, signal, generator):
        return good_select(self, n, signal, generator).int()


@caught_by(r"must return exactly `n` pool indices, shape \(45,\), got \(44,\)\. .* fill up")
class TooFew(Good):
    def select(self, n, *, signal, generator):
        return good_select(self, n, signal, generator)[: max(1, n - n // 40)]


@caught_by(r"`Repeats\.select` must return distinct pool indices, got \[")
class Repeats(Good):
    def select(self, n, *, signal, generator):
        return torch.randint(len(self.order), (n,), generator=generator)


@caught_by(r"`FlatRound\.select_round` must return a row .* per draw, shape \(2, 1\), got \(2,\)")
class FlatRound(Good):
    def select_round(self, n_draws, n, *, signal, generator):
        return torch.cat([good_select(self, n, signal, generator) for _ in range(n_draws)])


@caught_by(r"must return distinct pool indices, got \[")
class RepeatsInARound(Good):
    def select_round(self, n_draws, n, *, signal, generator):
        return torch.randint(len(self.order), (n_draws, n), generator=generator)


@caught_by(r"must return pool indices in \[0, 90\), got \[")
class OutOfRange(Good):
    def select(self, n, *, signal, generator):
        return good_select(self, n, signal, generator) + 1


@caught_by(
    r"`NoneAvailable\.setup` must set `n_available`, .* between 1 and 90, got 0\. Raise a `ValueError`"
)
class NoneAvailable(Good):
    def setup(self, n_pool, ledger, *, seed):
        super().setup(n_pool, ledger, seed=seed)
        self.n_available = 0


@caught_by(r"must draw from the same `n_available` samples throughout: a draw of all 45 did not hold \[\d+")
class Strays(Good):
    def setup(self, n_pool, ledger, *, seed):
        super().setup(n_pool, ledger, seed=seed)
        self.n_available = n_pool // 2


@caught_by(
    r"GlobalTorch must draw the same for the same ledger and seeds\. Take all chance from the `generator`"
)
class GlobalTorch(Good):
    def select(self, n, *, signal, generator):
        return torch.randperm(len(self.order))[:n]


@caught_by(
    r"GlobalSeed must not use or seed global random state, but changed \['random', 'numpy', 'torch'\]'s"
)
class GlobalSeed(Good):
    def setup(self, n_pool, ledger, *, seed):
        super().setup(n_pool, ledger, seed=seed)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 -- the global state is what is tested
        torch.manual_seed(seed)


@caught_by(r"NoChance must draw otherwise with other seeds\. .* `chance=False`")
class NoChance(Good):
    def select(self, n, *, signal, generator):
        return torch.arange(n)


def test_no_chance_may_be_meant():
    check_strategy(NoChance, chance=False)


@caught_by(r"ChangesLedger must not change the ledger, but changed \['loss'\]\. Copy it first")
class ChangesLedger(Good):
    def setup(self, n_pool, ledger, *, seed):
        super().setup(n_pool, ledger, seed=seed)
        if ledger is not None:
            ledger.loss.base[:] += 1


@caught_by(r"`NoFreshStart\.setup` must start from the very start: .* second run")
class NoFreshStart(Good):
    def setup(self, n_pool, ledger, *, seed):
        wrong = getattr(self, "wrong", torch.zeros(2))
        super().setup(n_pool, ledger, seed=seed)
        self.wrong = wrong


@caught_by(r"`FloatDrawState\.draw_state` must return an int64 tensor on the CPU, got tensor\(\[4\.\]\)")
class FloatDrawState(Good):
    def draw_state(self):
        return self.turn.float()


@caught_by(
    r"`DrawStateAlive\.select` must not change `signal`, nor what `draw_state` returned\. Return a copy"
)
class DrawStateAlive(Good):
    def select(self, n, *, signal, generator):
        index = good_select(self, n, signal, generator)
        self.alive.copy_(self.turn)
        return index

    def setup(self, n_pool, ledger, *, seed):
        super().setup(n_pool, ledger, seed=seed)
        self.alive = torch.zeros(1, dtype=torch.int64)

    def draw_state(self):
        return self.alive


@caught_by(r"must not change `signal`, nor what `draw_state` returned")
class SignalUsedUp(Good):
    def select(self, n, *, signal, generator):
        index = good_select(self, n, signal, generator)
        signal.zero_()
        return index


@caught_by(
    r"DrawStateForgotten must draw the same again after `load_draw_state`\. Whatever one draw leaves behind"
)
class DrawStateForgotten(Good):
    def draw_state(self):
        return torch.zeros(0, dtype=torch.int64)

    def load_draw_state(self, state):
        pass


@caught_by(
    r"`ReadsAhead\.select` must read what was learnt from `signal` alone\. Else a draw depends on how far"
)
class ReadsAhead(Good):
    def select(self, n, *, signal, generator):
        return good_select(self, n, self.wrong, generator)


@caught_by(r"`UnannouncedLoss\.tally` must do with .* must say `needs_loss = True`\. It raised TypeError")
class UnannouncedLoss(Good):
    needs_loss = False


@caught_by(
    r"`UnannouncedLedger\.setup` must work without a ledger, or the class must say `needs_ledger = True`"
)
class UnannouncedLedger(Good):
    def setup(self, n_pool, ledger, *, seed):
        super().setup(ledger.size, ledger, seed=seed)


@caught_by(r"`NeverRefreshed\.refresh_every_n_steps` must be None or at least 1, got 0")
class NeverRefreshed(Good):
    refresh_every_n_steps = 0


@caught_by(r"`refresh` must ask for pool indices below 90, asked for \[90\]")
class LooksBeyond(Good):
    refresh_every_n_steps = 1

    def refresh(self, probe):
        probe.correct(torch.tensor([len(self.order)]))


@caught_by(r"StateForgotten must go on from a checkpoint .*\. Put what it learns into `state_dict`")
class StateForgotten(Good):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


@caught_by(
    r"`GrowingState\.state_dict` must hold the same names and shapes from `setup` on, .* got \{'wrong'"
)
class GrowingState(Good):
    def state_dict(self):
        return {"wrong": self.wrong} | ({"more": self.wrong + 1} if self.wrong.any() else {})


@caught_by(r"PickledState's state must load with `torch\.load\(weights_only=True\)`: keep tensors")
class PickledState(Good):
    def state_dict(self):
        return {"wrong": self.wrong, "order": self.order.numpy()}


@caught_by(
    r"StateAlive must not change in place what `state_dict` returned|What `StateAlive\.signal` returned"
)
class StateAlive(Good):
    def update(self, tally, *, steps):
        if tally.device == self.wrong.device:
            self.wrong.mul_(0.5**steps).add_(tally)


@caught_by(
    r"What `SignalAlive\.signal` returned must never change in place: .* Make a new tensor in `update`"
)
class SignalAlive(Good):
    def update(self, tally, *, steps):
        super().update(tally, steps=steps)
        self.shown.copy_(self.wrong.to(self.shown.device))

    def setup(self, n_pool, ledger, *, seed):
        super().setup(n_pool, ledger, seed=seed)
        self.shown = torch.zeros(2)

    def signal(self):
        return self.shown

    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.shown = self.wrong.clone()


@caught_by(r"`ContextOfPlace\.context` must depend on each sample alone, but 'odd' depends on the order")
class ContextOfPlace(Good):
    def context(self, index):
        return {"odd": torch.arange(len(index)) % 2}


@caught_by(r"`ContextTooShort\.context` must return .* one row per sample, got one=tensor\(\[0\]\)")
class ContextTooShort(Good):
    def context(self, index):
        return {**super().context(index), "one": torch.zeros(1)[:1].long()}


@caught_by(r"`TallyOfMeans\.tally` must return sums: .* Return sums and counts, and divide in `update`")
class TallyOfMeans(Good):
    def tally(self, outcome):
        return super().tally(outcome) / max(1, len(outcome.index))


@caught_by(r"`TallyOfRows\.tally` must return the same shape whatever the outcome .* got \[.*\(\d+,\)")
class TallyOfRows(Good):
    def tally(self, outcome):
        return outcome.index[~outcome.correct]

    def update(self, tally, *, steps):
        pass


@caught_by(r"`UpdateReturns\.update` must return nothing, got tensor")
class UpdateReturns(Good):
    def update(self, tally, *, steps):
        super().update(tally, steps=steps)
        return self.wrong


@caught_by(r"`TallyKept\.tally` and `update` must not change their arguments, nor keep and change them later")
class TallyKept(Good):
    def update(self, tally, *, steps):
        super().update(tally, steps=steps)
        tally.zero_()


@caught_by(r"`OutcomeUsedUp\.tally` and `update` must not change their arguments")
class OutcomeUsedUp(Good):
    def tally(self, outcome):
        found = super().tally(outcome)
        outcome.correct.zero_()
        return found


@caught_by(
    r"Waits must learn on the device of the outcome and must not read values there, .* no `\.item\(\)`"
)
class Waits(Good):
    def update(self, tally, *, steps):
        if tally.sum().item() > 0:
            super().update(tally, steps=steps)


@caught_by(r"`LogsVectors\.metrics` must return finite 0-dim tensors by name, got wrong=tensor\(\[")
class LogsVectors(Good):
    def metrics(self):
        return {"wrong": self.wrong}


@caught_by(r"`LogsNaN\.metrics` must return finite 0-dim tensors by name, got wrong=tensor\(nan\)")
class LogsNaN(Good):
    def metrics(self):
        return {"wrong": self.wrong.sum() * float("nan")}


@caught_by(r"Picky refused the ledger to check it on: I want more\. Pass `ledger=`")
class Picky(Good):
    def setup(self, n_pool, ledger, *, seed):
        raise ValueError("I want more.")


@pytest.mark.parametrize(("kind", "message", "options"), BROKEN)
def test_broken_strategy_is_caught(kind, message, options):
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 -- the global state is what is tested
    # States that no part's own seed leads to, whatever ran before.
    random.seed(4321)
    np.random.seed(4321)  # noqa: NPY002 -- the global state is what is tested
    torch.manual_seed(4321)
    try:
        with pytest.raises(AssertionError, match=message):
            check_strategy(kind, **options)
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002 -- the global state is what is tested
        torch.set_rng_state(states[2])


def test_other_things_are_refused():
    with pytest.raises(AssertionError, match=r"Give a Strategy or a function that makes one, got 42"):
        check_strategy(42)
    with pytest.raises(AssertionError, match=r"must make a Strategy, made a dict"):
        check_strategy(dict)


def test_smaller_ledgers_may_be_refused_at_setup():
    class NeedsMany(Good):
        def setup(self, n_pool, ledger, *, seed):
            if n_pool < 50:
                raise ValueError("Too few.")
            super().setup(n_pool, ledger, seed=seed)

    check_strategy(NeedsMany)
