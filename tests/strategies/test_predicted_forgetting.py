"""Ridge regression of rises in loss on factors, and draws by the exponential of what it predicts."""

import numpy as np
import pytest
import torch

from lightning_mixcd import Ledger, PredictedForgetting
from lightning_mixcd.strategies.predicted_forgetting import principal_components
from lightning_mixcd.types import Outcome
from tests.oracles.chance import fits
from tests.strategies.drawing import counts, started

N, T = 40, 3
VALUES = np.random.default_rng(0).normal(size=(N, T)) @ np.diag([3.0, 1.0, 0.2]) + 5
LEDGER = Ledger.from_arrays([True] * N, np.linspace(0.1, 1, N), features=VALUES)


def rehearse(strategy, index, rise, steps=1.0):
    index, context = torch.tensor(index), strategy.context(torch.tensor(index))
    loss = torch.tensor(LEDGER.loss[index.numpy()]) + torch.tensor(rise)
    strategy.update(strategy.tally(Outcome(index, loss > 0, loss, context)), steps=steps)


def predicted(strategy):
    """What a strategy makes of what it has learnt."""
    factors = strategy.context(torch.arange(N))["factors"].double()
    return (factors @ strategy.coefficients(strategy.signal())).numpy()


def test_components_are_those_of_a_singular_value_decomposition():
    found = principal_components(VALUES, 2)
    left, _, _ = np.linalg.svd(VALUES - VALUES.mean(axis=0))
    for k in range(2):
        assert abs(found[:, k] @ left[:, k]) == pytest.approx(np.sqrt(N), rel=1e-5)
    np.testing.assert_allclose(found.T @ found / N, np.eye(2), atol=1e-5)


def test_components_do_not_depend_on_how_the_pool_is_cut(monkeypatch):
    from lightning_mixcd.strategies import predicted_forgetting

    whole = principal_components(VALUES, 3)
    monkeypatch.setattr(predicted_forgetting, "CHUNK", 7)
    np.testing.assert_allclose(principal_components(VALUES, 3), whole, atol=1e-4)


def test_signs_of_components_do_not_depend_on_the_order_of_the_columns():
    whole = principal_components(VALUES, 3)
    np.testing.assert_allclose(principal_components(VALUES[:, ::-1], 3), whole, atol=1e-4)


def test_what_does_not_vary_is_no_component():
    values = np.stack([np.ones(6), np.arange(6.0), 2 * np.arange(6.0)], axis=1)
    assert principal_components(values, 3).shape == (6, 1)
    assert principal_components(np.ones((6, 2)), 2).shape == (6, 0)


def test_coefficients_are_those_of_a_ridge_regression_with_faded_samples():
    strategy = started(PredictedForgetting(rank=2, ridge=0.7, halflife_steps=10), LEDGER)
    lessons = [([3, 8, 30], [0.5, 2.0, -0.3]), ([8, 1], [1.5, 0.1]), ([22], [3.0])]
    for index, rise in lessons:
        rehearse(strategy, index, rise, steps=5.0)
    # Each sample as rows of a least squares problem, scaled by the root of its weight; the prior as rows too.
    factors = np.concatenate([principal_components(VALUES, 2), np.ones((N, 1))], axis=1)
    weight = np.sqrt([0.5] * 3 + [0.5**0.5] * 2 + [1.0])
    rows = factors[[3, 8, 30, 8, 1, 22]] * weight[:, None]
    targets = np.array([0.5, 2.0, -0.3, 1.5, 0.1, 3.0]) * weight
    w = np.linalg.lstsq(
        np.concatenate([rows, np.sqrt(0.7) * np.eye(3)]), np.concatenate([targets, np.zeros(3)]), rcond=None
    )[0]
    np.testing.assert_allclose(predicted(strategy), factors @ w, atol=1e-5)


def test_draws_follow_the_softmax_of_the_prediction():
    # One sample is forgotten, 18 are not; 10 are candidates, any of them alike, and one of those is drawn.
    forgotten = torch.tensor([1.0] + [0.0] * 18)
    ledger = Ledger.from_arrays([True] * 19, [0.1] * 19, past=forgotten[:, None])
    strategy = started(PredictedForgetting("past", temperature=0.3, candidates_per_row=10), ledger)
    context = strategy.context(torch.arange(19))
    outcome = Outcome(torch.arange(19), forgotten == 0, forgotten + 0.1, context)
    strategy.update(strategy.tally(outcome), steps=1.0)
    predicted = context["factors"].double() @ strategy.coefficients(strategy.signal())
    high, low = torch.exp(predicted[:2] / 0.3).tolist()
    assert 5 < high / low < 50
    chance = 10 / 19 * high / (high + 9 * low)
    found = counts(strategy, 19, 1, 3000)
    assert fits([found[0], found[1:].sum()], [chance, 1 - chance])
    assert fits(found[1:])


def test_before_anything_is_seen_it_is_uniform():
    assert fits(counts(started(PredictedForgetting(), LEDGER), N, 4, 1500))


def test_it_learns_a_rank_one_pattern_and_finds_unseen_samples_with_it():
    pattern = (np.arange(N) % 4 == 0).astype(float)
    ledger = Ledger.from_arrays([True] * N, [0.1] * N, past=np.stack([pattern, 2 * pattern], axis=1))
    strategy = started(PredictedForgetting("past", temperature=0.2), ledger)
    for _ in range(20):
        index = torch.arange(1, 20)
        loss = 0.1 + torch.tensor(pattern[1:20]).float()
        strategy.update(strategy.tally(Outcome(index, loss < 1, loss, strategy.context(index))), steps=1.0)
    found = counts(strategy, N, 2, 400)
    assert found[20:][pattern[20:] > 0].mean() > 5 * found[20:][pattern[20:] == 0].mean()


def test_losses_that_are_no_numbers_are_passed_over():
    one, other = (started(PredictedForgetting(), LEDGER) for _ in range(2))
    rehearse(one, [3, 8], [0.5, float("nan")])
    rehearse(other, [3], [0.5])
    assert torch.equal(one.signal(), other.signal())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, r"`rank` must be at least 1, got 0\. The default is 8"),
        ({"candidates_per_row": 0}, r"`candidates_per_row` must be at least 1, got 0\. The default is 5"),
        ({"temperature": 0.0}, r"`temperature` must be in \(0, inf\], got 0\.0"),
        ({"ridge": -1.0}, r"`ridge` must be in \(0, inf\), got -1\.0"),
        ({"ridge": float("inf")}, r"`ridge` must be in \(0, inf\), got inf"),
        ({"halflife_steps": float("nan")}, r"`halflife_steps` must be in \(0, inf\], got nan"),
    ],
)
def test_what_is_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PredictedForgetting(**options)


def test_column_that_lacks_is_named():
    with pytest.raises(
        ValueError, match=r"must have a column `past` .* for PredictedForgetting, got columns"
    ):
        started(PredictedForgetting("past"), LEDGER)
