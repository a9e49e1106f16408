"""Drift of each kind is found, by the model that is meant for it."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_mixcd.strategies._drift import MODELS, DriftModels
from lightning_mixcd.strategies._head import Head

D, RIDGE = 4, 0.01


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def head():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Head(nn.Linear(D, 5))


BASE = normal(300, D) * torch.tensor([3.0, 1.0, 1.0, 0.5]) + 1
DRIFTS = {
    "none": lambda x: x,
    "shift": lambda x: x + torch.tensor([1.0, -2.0, 0.0, 3.0]),
    "diagonal": lambda x: x * torch.tensor([1.5, 0.2, -1.0, 2.0]) + 1,
    "linear": lambda x: x + x @ normal(D, D, seed=1) - 2,
}


def label(rows):
    return torch.arange(len(rows)) % 5


def learnt(drifted, *, rank=D, n_lessons=20, noise=0.0, halflife_steps=1000.0):
    models = DriftModels(BASE, rank, ridge=RIDGE, halflife_steps=halflife_steps)
    for lesson in range(n_lessons):
        rows = BASE[lesson * 8 : lesson * 8 + 8]
        now = drifted(rows) + noise * normal(8, D, seed=lesson)
        models.update(models.tally(rows, now, label(rows), head()), steps=1)
    return models


@pytest.mark.parametrize("kind", MODELS)
def test_drift_of_each_kind_is_recovered(kind):
    models = learnt(DRIFTS[kind])
    fresh = BASE[200:]
    assert torch.allclose(models.corrected(fresh, models.best()), DRIFTS[kind](fresh), atol=0.05)
    if kind != "none":
        assert models.error() < 0.1  # the first lesson could not be foreseen


@pytest.mark.parametrize("kind", MODELS)
def test_simplest_model_that_fits_foresees_best_where_rows_are_few_and_noisy(kind):
    chosen = learnt(DRIFTS[kind], noise=0.5, n_lessons=8).chosen()
    assert MODELS[chosen] == kind


def test_linear_model_follows_only_the_directions_it_has():
    low, whole = (learnt(DRIFTS["linear"], rank=rank) for rank in (1, D))
    fresh = BASE[200:]
    errors = [
        (models.corrected(fresh, models.fits[3]) - DRIFTS["linear"](fresh)).square().mean()
        for models in (low, whole)
    ]
    assert errors[0] > 10 * errors[1]
    assert low.fits.shape == (len(MODELS), 3, D)


def test_a_lesson_is_a_test_before_it_is_learnt():
    models, drifted = learnt(DRIFTS["shift"], n_lessons=1, halflife_steps=1e9), DRIFTS["shift"](BASE[:8])
    # Nothing was known yet: all models foresaw what the one without drift does.
    assert models.errors.tolist() == pytest.approx([models.errors[0].item()] * len(MODELS))
    before = models.errors
    run = head()
    truth = margins(run(drifted, run.parameters()))
    models.update(models.tally(BASE[:8], drifted, label(BASE[:8]), run), steps=1)
    for model, fit in enumerate(learnt(DRIFTS["shift"], n_lessons=1).fits):
        guess = margins(run(models.corrected(BASE[:8], fit), run.parameters()))
        error = sum((a - b) ** 2 for a, b in zip(guess, truth, strict=True))
        assert float(models.errors[model] - before[model]) == pytest.approx(error, rel=1e-3, abs=1e-3)


def margins(logits):
    found = []
    for z, y in zip(logits.tolist(), label(logits).tolist(), strict=True):
        found.append(z[y] - max(z[:y] + z[y + 1 :]))
    return found


def test_linear_map_is_of_what_single_features_leave():
    def drifted(x):
        return x + x.tanh() @ normal(D, D, seed=1).to(x)

    models, rows = learnt(drifted, halflife_steps=1e9), BASE[:160].double()
    drift, x = drifted(rows) - rows, (rows - BASE.mean(0)) / BASE.var(0, unbiased=False).mean().sqrt()
    foreseen = rows.clone()
    for j in range(D):
        own = np.linalg.solve(
            [[160 + RIDGE, x[:, j].sum()], [x[:, j].sum(), (x[:, j] ** 2).sum() + RIDGE]],
            [drift[:, j].sum(), (x[:, j] * drift[:, j]).sum()],
        )
        foreseen[:, j] += own[0] + own[1] * x[:, j]
    left = drifted(rows) - foreseen
    z = torch.cat([torch.ones(160, 1), x], dim=1)
    foreseen += z @ torch.linalg.solve(z.T @ z + RIDGE * torch.eye(1 + D), z.T @ left)
    assert torch.allclose(models.corrected(BASE[:160], models.fits[3]).double(), foreseen, atol=1e-3)


def test_old_lessons_fade():
    models = learnt(DRIFTS["shift"], n_lessons=10, halflife_steps=1.0)
    assert float(models.own_sums[0, 0]) == pytest.approx(8 * sum(0.5**age for age in range(10)))
    models = learnt(DRIFTS["shift"], halflife_steps=2.0)
    for lesson in range(20):
        rows = BASE[lesson * 8 : lesson * 8 + 8]
        models.update(models.tally(rows, DRIFTS["linear"](rows), label(rows), head()), steps=1)
    fresh = BASE[200:]
    assert torch.allclose(models.corrected(fresh, models.best()), DRIFTS["linear"](fresh), atol=0.1)


def test_lesson_without_rows_only_fades():
    models = learnt(DRIFTS["linear"], halflife_steps=4.0)
    sums, errors, fit = models.sums, models.errors, models.best()
    nothing = torch.zeros(0, D)
    models.update(models.tally(nothing, nothing, label(nothing), head()), steps=4)
    assert torch.allclose(models.sums, sums / 2)
    assert torch.allclose(models.errors, errors / 16)
    assert torch.allclose(models.best(), fit, atol=0.1)


def test_before_the_first_lesson_all_of_the_error_is_left():
    assert DriftModels(BASE, D, ridge=RIDGE, halflife_steps=1.0).error() == 1


def test_of_models_alike_but_for_rounding_the_simplest_is_chosen():
    models = learnt(DRIFTS["linear"])
    models.errors = torch.tensor([9.0, 1.0 + 1e-6, 1.0 + 2e-6, 1.0])
    assert MODELS[models.chosen()] == "shift"
    models.errors = torch.tensor([9.0, 1.001, 1.0, 1.0])
    assert MODELS[models.chosen()] == "diagonal"


def test_what_was_learnt_is_read_in_the_basis_that_it_was_learnt_in():
    models = learnt(DRIFTS["linear"])
    resumed = DriftModels(2 * BASE.flip(1), D, ridge=RIDGE, halflife_steps=1000.0)
    resumed.load_state_dict(models.state_dict())
    fresh = BASE[200:]
    assert torch.equal(resumed.corrected(fresh, resumed.best()), models.corrected(fresh, models.best()))


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_features_that_overflow_are_forgotten(broken):
    models = learnt(DRIFTS["linear"], halflife_steps=1.0)
    models.update(models.tally(BASE[:8], torch.full((8, D), broken), label(BASE[:8]), head()), steps=1)
    assert all(value.isfinite().all() for value in models.state_dict().values())
    for lesson in range(60):
        rows = BASE[lesson * 4 : lesson * 4 + 8]
        models.update(models.tally(rows, DRIFTS["linear"](rows), label(rows), head()), steps=1)
    fresh = BASE[250:]
    assert torch.allclose(models.corrected(fresh, models.best()), DRIFTS["linear"](fresh), atol=0.1)


def test_head_that_overflows_is_forgotten():
    models, broken = learnt(DRIFTS["linear"]), nn.Linear(D, 5)
    nn.init.constant_(broken.weight, 3e38)
    rows = BASE[:8]
    models.update(models.tally(rows, DRIFTS["linear"](rows), label(rows), Head(broken)), steps=1)
    assert models.errors.isfinite().all()
