"""Where mix-cd draws, what it learns, and what its choices are good for."""

import math

import numpy as np
import pytest
import torch

from lightning_mixcd.estimators import DecayedBeta, RunningMean, Static
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByLabel, ByLossQuantile, Shuffled, Single
from lightning_mixcd.strategies import MixCD, Uniform, UniformCorrect
from tests.oracles import collateral as oracle
from tests.oracles.chance import fits
from tests.oracles.toy_training import damaged_share
from tests.strategies.drawing import counts, draws, labelled, learn, started


def by_label(ledger, **options):
    return started(MixCD(partition=ByLabel(), **options), ledger)


class TestWhereItDraws:
    def test_density_draws_a_sample_as_often_as_its_bin_is_damaged(self):
        strategy = by_label(labelled(300, 100), estimator=Static([0.1, 0.4]), floor=0.0)
        found = counts(strategy, 400, 8, 2500)
        assert fits([found[:300].sum(), found[300:].sum()], [300 * 0.1, 100 * 0.4])
        assert found[300:].mean() / found[:300].mean() == pytest.approx(4, rel=0.05)

    def test_rate_draws_a_bin_as_often_as_it_is_damaged(self):
        found = counts(
            by_label(labelled(300, 100), estimator=Static([0.1, 0.4]), floor=0.0, rule="rate"), 400, 8, 2500
        )
        assert fits([found[:300].sum(), found[300:].sum()], [1, 4])

    def test_rules_draw_the_same_from_equal_bins(self):
        density, rate = (
            by_label(labelled(30, 30, 30), estimator=Static([0.1, 0.3, 0.7]), rule=rule)
            for rule in ("density", "rate")
        )
        assert draws(density, 8, 50) == draws(rate, 8, 50)

    def test_floor_keeps_a_bin_without_damage_in_the_draw(self):
        found = counts(by_label(labelled(50, 50), estimator=Static([0.0, 0.5]), floor=0.2), 100, 5, 1500)
        assert fits([found[:50].sum(), found[50:].sum()], [0.1, 0.9])

    def test_before_anything_is_known_it_is_uniform_over_correct(self):
        assert fits(counts(by_label(labelled(70, 20, 10, wrong=20)), 120, 5, 2000)[:100])

    def test_only_base_correct_samples_are_drawn(self):
        strategy = by_label(labelled(30, 10, wrong=20))
        assert strategy.n_available == 40
        assert not counts(strategy, 60, 10, 100)[40:].any()

    def test_wrong_share_is_kept_in_the_long_run(self):
        strategy = by_label(labelled(30, 30, wrong=40), wrong_share=0.25)
        assert strategy.n_available == 100
        found = counts(strategy, 100, 6, 1500)
        assert fits([found[60:].sum(), found[:60].sum()], [1, 3])
        assert fits(found[60:])

    def test_wrong_share_without_wrong_samples_changes_nothing_in_the_long_run(self):
        assert fits(counts(by_label(labelled(30, 30), wrong_share=0.5), 60, 6, 1000))

    def test_bin_without_correct_sample_is_left_out(self):
        ledger = Ledger.from_arrays(
            correct=[True] * 10 + [False] * 5, loss=[0.1] * 15, label=[0] * 10 + [1] * 5
        )
        strategy = by_label(ledger)
        assert strategy.probabilities(strategy.signal()).tolist() == [1, 0]
        assert sorted(draws(strategy, 10, 1)[0]) == list(range(10))

    def test_one_bin_draws_exactly_what_uniform_over_correct_draws(self):
        ledger = labelled(100, 50, wrong=30)
        single, uniform = started(MixCD(partition=Single()), ledger), started(UniformCorrect(), ledger)
        for k in range(30):
            (drawn,) = draws(single, 16, 1, first=k)
            assert [drawn] == draws(uniform, 16, 1, first=k)
            learn(single, drawn, [i % 3 == 0 for i in drawn])


def long_run(partition, n_steps=1200):
    """How often samples of each of three labels are drawn where only label 2 is damaged."""
    sizes = np.array([600, 300, 300])
    strategy = started(MixCD(partition=partition), labelled(*sizes))
    label = np.repeat(range(3), sizes)
    found = np.zeros(3)
    for k in range(n_steps):
        (drawn,) = draws(strategy, 16, 1, first=k)
        learn(strategy, drawn, (label[drawn] == 2).tolist())
        found += np.bincount(label[drawn], minlength=3)
    return found, sizes


def test_bins_that_mean_nothing_are_uniform_over_correct():
    assert fits(*long_run(Shuffled(ByLabel())))
    found, sizes = long_run(ByLabel(), n_steps=300)
    assert not fits(found, sizes)
    assert found[2] > 0.9 * found.sum()


class TestWhatItLearns:
    def test_counts_per_bin_without_base_wrong_samples(self):
        ledger = labelled(4, 4, wrong=4)
        strategy = by_label(ledger, estimator=DecayedBeta(math.inf), wrong_share=0.5)
        index, damaged = [0, 1, 5, 6, 7, 9, 10], [True, False, True, True, False, True, True]
        learn(strategy, index, damaged)
        expected = oracle.decayed_rates(
            [(0, i // 4, d) for i, d in zip(index[:5], damaged[:5], strict=True)], 0, 2, 1, 1, 1
        )
        assert strategy.signal().tolist() == pytest.approx(expected)

    def test_fading_goes_by_steps(self):
        strategy = by_label(labelled(5, 5), estimator=DecayedBeta(10))
        learn(strategy, [0, 1, 2, 3], [True] * 4)
        learn(strategy, [5], [False], steps=10)
        assert strategy.signal().tolist() == pytest.approx([3 / 4, 1 / 3])

    def test_planted_damage_densities_are_found(self):
        planted = np.array([0.05, 0.2, 0.6])
        sizes = [2000, 1000, 1000]
        rng = np.random.default_rng(0)
        damaged = rng.random(4000) < np.repeat(planted, sizes)
        strategy = by_label(labelled(*sizes), estimator=DecayedBeta(math.inf))
        for k in range(250):
            (drawn,) = draws(strategy, 16, 1, first=k)
            learn(strategy, drawn, damaged[drawn].tolist())
        seen = strategy.estimator.seen.numpy()
        assert seen.sum() == 4000
        true = np.array([part.mean() for part in np.split(damaged, np.cumsum(sizes)[:-1])])
        error = np.abs(strategy.signal().numpy() - true)
        assert (error < 4 * np.sqrt(true * (1 - true) / seen) + 2 / seen).all()

    def test_metrics_are_the_rates_and_their_mean_over_samples(self):
        strategy = by_label(labelled(30, 10, wrong=5), estimator=Static([0.1, 0.5]))
        found = {name: value.item() for name, value in strategy.metrics().items()}
        rows = {"rows/00": 0, "rows/01": 0}
        assert found == pytest.approx({"damage_rate": 0.2, "rate/00": 0.1, "rate/01": 0.5, **rows})

    def test_rows_are_counted_from_the_start_with_base_wrong_ones_last(self):
        ledger, index = labelled(4, 4, wrong=4), [0, 5, 6, 8, 9, 10]
        strategy, resumed = (by_label(ledger, wrong_share=0.5) for _ in range(2))
        for _ in range(2):
            learn(strategy, index, [False] * 6)
        resumed.load_state_dict(strategy.state_dict())
        for one in (strategy, resumed):
            learn(one, [7, 11], [False] * 2)
            rows = [int(value) for name, value in one.metrics().items() if name.startswith("rows/")]
            assert rows == [2, 5, 7]

    def test_many_bins_log_only_the_mean(self):
        ledger = Ledger.from_arrays(correct=[True] * 65, loss=[0.0] * 65)
        assert list(started(MixCD(partition=ByLossQuantile(65)), ledger).metrics()) == ["damage_rate"]


class TestAbsorbingState:
    """A bin whose first twenty draws were all undamaged, beside one that was damaged in half of them."""

    def drawn_afterwards(self, **options):
        strategy = by_label(labelled(100, 100), **options)
        learn(strategy, [*range(20), *range(100, 120)], [False] * 20 + [True, False] * 10)
        return counts(strategy, 200, 8, 500)[:100].sum() / 4000

    def test_plain_ratio_never_draws_it_again(self):
        assert self.drawn_afterwards(estimator=RunningMean(), floor=0.0) == 0

    def test_prior_keeps_drawing_it(self):
        # Rates (0 + 1) / (20 + 2) and (10 + 1) / (20 + 2).
        assert self.drawn_afterwards(estimator=DecayedBeta(), floor=0.0) == pytest.approx(1 / 12, abs=0.02)

    def test_floor_keeps_drawing_it(self):
        assert self.drawn_afterwards(estimator=RunningMean(), floor=0.2) == pytest.approx(0.1, abs=0.02)


def test_plain_ratio_finds_less_damage_than_uniform_and_the_default_more():
    rules = {
        "uniform": Uniform,
        "plain": lambda: MixCD(partition=ByLabel(), estimator=RunningMean(), floor=0.0),
        "default": lambda: MixCD(partition=ByLabel()),
        "control": lambda: MixCD(partition=Shuffled(ByLabel())),
    }
    seeds = range(8)
    share = {
        name: np.array([damaged_share(make(), seed=seed) for seed in seeds]) for name, make in rules.items()
    }
    gain = {name: values - share["uniform"] for name, values in share.items()}
    assert gain["plain"].mean() < -0.1
    assert gain["default"].min() > 0.05
    assert abs(gain["control"].mean()) < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "ratio"}, r'`rule` must be "density" or "rate", got \'ratio\''),
        ({"floor": -0.1}, r"`floor` must be in \[0, 1\], got -0\.1\. The default is 0\.05"),
        ({"floor": 1.5}, r"`floor` must be in \[0, 1\], got 1\.5"),
        ({"wrong_share": -0.5}, r"`wrong_share` must be in \[0, 1\), got -0\.5\. The default is 0"),
        ({"wrong_share": 1.0}, r"`wrong_share` must be in \[0, 1\), got 1\.0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MixCD(**options)


def test_a_pool_without_correct_samples_is_refused():
    with pytest.raises(
        ValueError, match=r"`ledger` must have a sample that the base model got right, got none"
    ):
        by_label(Ledger.from_arrays(correct=[False] * 3, loss=[1.0] * 3, label=[0, 1, 2]))


def test_default_partition_is_by_loss():
    strategy = started(MixCD(), labelled(100))
    assert strategy.sizes.tolist() == [10] * 10
    assert strategy.bins_of(torch.tensor([0, 55, 99])).tolist() == [0, 5, 9]


@pytest.mark.parametrize("wrong", [ByLabel, "label", 3])
def test_parts_must_be_parts(wrong):
    with pytest.raises(
        TypeError, match=r"`partition` must be a `Partition`, got .*Pass for example ByLabel\(\)"
    ):
        MixCD(partition=wrong)
    with pytest.raises(TypeError, match=r"`estimator` must be an `Estimator`, got .*DecayedBeta\(\)"):
        MixCD(estimator=wrong)
