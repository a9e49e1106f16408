"""Choices are those of gradient matching, made without the model."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_mixcd.strategies import HeadProbe, ProbeMatching
from lightning_mixcd.strategies._calibration import N_BINS
from tests.strategies.probing import N, World, noise_probe


def world(**settings):
    return World(kind=ProbeMatching, **settings)


def trusted(world):
    """Let all of the half with less margin have been damaged, and nothing else."""
    learnt, place = world.probe._calibration, torch.arange(N_BINS).repeat(10**5)
    learnt.update(learnt.tally(place, place < 7, torch.zeros(len(place))), steps=1)


def gradients(world, index):
    """Of the head's weights, one backward per sample."""
    found = []
    for i in index.tolist():
        loss = nn.functional.cross_entropy(world.head(world.features[i : i + 1]), world.label[i : i + 1])
        parts = torch.autograd.grad(loss, [world.head.weight, world.head.bias])
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def draws(n_draws, *, n, **settings):
    """Each draw, its candidates, and the products of their gradients with the mean of all these."""
    ours, twin = (world(**settings) for _ in range(2))
    for each in (ours, twin):
        each.finetune(drift=False)
    trusted(ours)
    for seed in range(n_draws):
        candidates = torch.from_numpy(twin.probe.candidates(1, n)[0])
        by_hand = gradients(ours, candidates)
        yield ours.draw(n=n, seed=seed), candidates, by_hand @ by_hand.mean(dim=0)


def test_one_row_is_the_candidate_nearest_in_direction_to_their_mean_gradient():
    for chosen, candidates, products in draws(20, n=1, uniform_share=0.0, candidates_per_row=8):
        assert products[(candidates == chosen).nonzero()[0]] == pytest.approx(float(products.max()), rel=1e-3)


def test_rows_stand_for_the_candidates_better_than_as_many_uniform_ones():
    ours, twin = (world(uniform_share=0.0, candidates_per_row=5) for _ in range(2))
    errors = []
    for each in (ours, twin):
        each.finetune(drift=False)
    trusted(ours)
    for seed in range(30):
        candidates = torch.from_numpy(twin.probe.candidates(1, 8)[0])
        target = gradients(ours, candidates).mean(dim=0)
        left = []
        for rows in (ours.draw(n=8, seed=seed), candidates[:8]):
            basis = gradients(ours, rows).T
            left.append((basis @ torch.linalg.lstsq(basis, target).solution - target).norm() / target.norm())
        errors.append(left)
    matched, uniform = torch.tensor(errors).mean(dim=0)
    assert matched < 0.5 * uniform


def test_draws_aim_at_damage_once_drift_is_known():
    ours = world(uniform_share=0.0)
    ours.finetune()
    hits = [float(ours.damaged[ours.lesson(seed=step)].float().mean()) for step in range(100)]
    assert np.mean(hits[-50:]) > 1.5 * float(ours.damaged.sum() / ours.correct.sum())


def test_useless_predictions_leave_draws_nearly_uniform():
    ours = noise_probe(kind=ProbeMatching, halflife_steps=1e4)
    ours.finetune()
    drawn = torch.cat([ours.lesson(seed=step) for step in range(400)])
    rate = float(ours.damaged.sum() / ours.correct.sum())
    assert float(ours.damaged[drawn].float().mean()) == pytest.approx(rate, abs=0.06)
    counts = np.bincount(drawn, minlength=N)[ours.correct]
    assert counts.max() < 3 * counts.mean()
    assert counts.min() > 0.3 * counts.mean()
    assert ours.probe.metrics()["trust"] < 0.3


def test_trust_compares_candidates_of_less_and_of_more_margin():
    ours, twin = (world(halflife_steps=float("inf")) for _ in range(2))
    assert ours.probe.metrics()["trust"] == 0
    ours.finetune()
    tables = np.array([[1.0, 2.0], [1.0, 2.0]])  # damaged and seen, of the two halves
    for step in range(40):
        for i, k in ours.lesson_in_bins(twin, seed=step):
            tables[int(k > 6)] += float(ours.damaged[i]), 1
    lower, upper = tables[:, 0] / tables[:, 1]
    assert float(ours.probe.metrics()["trust"]) == pytest.approx(1 - upper / lower, abs=1e-5)


def test_matched_rows_stand_for_all_candidates_beside_uniform_ones_too():
    for drawn, candidates, products in draws(20, n=8, uniform_share=0.75, candidates_per_row=2):
        assert torch.equal(drawn[:6], candidates[:6])
        best = float(products[6:].max())
        assert products[(candidates == drawn[6]).nonzero()[0]] == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("trust", [0.0, 0.5, 1.0])
def test_trust_is_the_share_matched_of_what_is_not_uniform_in_any_case(trust):
    ours = world(uniform_share=0.2)
    learnt, place = ours.probe._calibration, torch.arange(N_BINS).repeat(10**4)
    damaged = (place < 7).float().clamp(min=1 - trust)
    learnt.update(learnt.tally(place, damaged, torch.zeros(len(place))), steps=1)
    index = ours.draw(n=50)
    uniform = ours.probe.context(index)["place"] >= N_BINS
    assert int(uniform.sum()) == pytest.approx(50 * (1 - 0.8 * trust), abs=1)


def test_predictions_that_mislead_are_not_trusted():
    ours = world()
    learnt, place = ours.probe._calibration, torch.arange(N_BINS).repeat(100)
    learnt.update(learnt.tally(place, place >= 7, torch.zeros(len(place))), steps=1)
    assert ours.probe.metrics()["trust"] == 0
    index = ours.draw(n=50)
    assert (ours.probe.context(index)["place"] >= N_BINS).all()


def test_head_must_be_one_linear_layer():
    with pytest.raises(ValueError, match=r"must be one `nn[.]Linear` for ProbeMatching, got Seq"):
        ProbeMatching().attach(nn.Sequential(nn.Linear(2, 2)))
    HeadProbe().attach(nn.Sequential(nn.Linear(2, 2)))
