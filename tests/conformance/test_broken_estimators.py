"""Estimators that break one rule each: the suite must say which."""

import pytest
import torch

from lightning_mixcd.estimators import Estimator
from lightning_mixcd.testing import check_estimator


class Good(Estimator):
    STATE = ("damaged", "seen")

    def reset(self, n_bins):
        self.damaged, self.seen = torch.zeros(n_bins), torch.zeros(n_bins)

    def update(self, damaged, seen, *, steps):
        self.damaged = self.damaged.to(damaged.device) + damaged
        self.seen = self.seen.to(seen.device) + seen

    def rates(self):
        return (self.damaged + 1) / (self.seen + 2)


def test_good_estimator_passes_as_class_instance_or_function():
    check_estimator(Good)
    check_estimator(Good())
    check_estimator(lambda: Good(), n_bins=[4])


class NaNUnseen(Good):
    def rates(self):
        return self.damaged / self.seen


class AboveOne(Good):
    def rates(self):
        return super().rates() * 2.5


class OneRate(Good):
    def rates(self):
        return super().rates().mean()


class RatesList(Good):
    def rates(self):
        return super().rates().tolist()


class WholeRates(Good):
    def rates(self):
        return super().rates().round().long()


class NeverForgets(Good):
    def reset(self, n_bins):
        if not hasattr(self, "seen") or len(self.seen) != n_bins:
            super().reset(n_bins)


class InPlace(Good):
    def update(self, damaged, seen, *, steps):
        if damaged.device == self.damaged.device:
            self.damaged += damaged
            self.seen += seen


class RatesInPlace(Good):
    def reset(self, n_bins):
        super().reset(n_bins)
        self.shown = super().rates()

    def rates(self):
        return self.shown.copy_(super().rates().to(self.shown.device))


class ChangesCounts(Good):
    def update(self, damaged, seen, *, steps):
        super().update(damaged, seen, steps=steps)
        damaged.zero_()


class KeepsCounts(Good):
    def reset(self, n_bins):
        super().reset(n_bins)
        self.kept = None

    def update(self, damaged, seen, *, steps):
        super().update(damaged, seen, steps=steps)
        if self.kept is not None:
            self.kept.zero_()
        self.kept = seen


class StateForgotten(Good):
    STATE = ("damaged",)


class PickledState(Good):
    def state_dict(self):
        return {**super().state_dict(), "kind": type(self)}


class StateMixedUp(Good):
    def load_state_dict(self, state):
        self.damaged, self.seen = state["damaged"], state["seen"] * 2


class Waits(Good):
    def update(self, damaged, seen, *, steps):
        if seen.sum() > 0:
            super().update(damaged, seen, steps=steps)


class HostRates(Good):
    def rates(self):
        return super().rates().cpu()


class Biased(Good):
    def rates(self):
        return super().rates() ** 2


class GlobalChance(Good):
    def rates(self):
        torch.rand(1)
        return super().rates()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            NaNUnseen,
            r"`NaNUnseen\.rates` must be in \[0, 1\] and never NaN, got \[nan\] before any update\. Decide",
        ),
        (AboveOne, r"must be in \[0, 1\] and never NaN, got \[1\.25\] before any update"),
        (OneRate, r"must return floats of shape \(1,\), one rate per bin, got 0\.5 before any update"),
        (RatesList, r"must return floats of shape \(1,\), one rate per bin, got \[0\.5\] before any update"),
        (WholeRates, r"must return floats of shape \(1,\), one rate per bin, got tensor\(\[0\]\)"),
        (NeverForgets, r"`NeverForgets\.reset` must forget everything learnt before it"),
        (
            InPlace,
            r"`InPlace\.update` must not change in place what .* Write `self\.seen = self\.seen \+ seen`",
        ),
        (RatesInPlace, r"must not change in place what `rates` or `state_dict` returned before"),
        (
            ChangesCounts,
            r"`ChangesCounts\.update` must not change its arguments, nor keep and change them later",
        ),
        (KeepsCounts, r"`KeepsCounts\.update` must not change its arguments, nor keep and change them later"),
        (StateForgotten, r"StateForgotten must go on from a checkpoint .* Name every tensor .* in `STATE`"),
        (PickledState, r"PickledState's state must load with `torch\.load\(weights_only=True\)`"),
        (StateMixedUp, r"StateMixedUp must go on from a checkpoint as if it had not stopped"),
        (
            Waits,
            r"`Waits\.update` and `rates` must stay on the device .* no `\.item\(\)`.* Use `torch\.where`",
        ),
        (HostRates, r"must stay on the device of the counts and must not read values"),
        (Biased, r"Biased must find planted rates within 5 standard errors .* Pass `learns=False`"),
        (GlobalChance, r"GlobalChance must not use or seed global random state, but changed \['torch'\]'s"),
    ],
)
def test_broken_estimator_is_caught(kind, message):
    options = {"learns": False} if kind is GlobalChance else {}
    state = torch.get_rng_state()
    with pytest.raises(AssertionError, match=message):
        check_estimator(kind, **options)
    torch.set_rng_state(state)


def test_learning_may_be_out_of_scope():
    check_estimator(Biased, learns=False)


def test_other_things_are_refused():
    with pytest.raises(AssertionError, match=r"Give a Estimator or a function that makes one, got 0\.5"):
        check_estimator(0.5)
