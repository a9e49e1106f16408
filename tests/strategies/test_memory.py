"""Memories that are chosen once: places per class, and who is chosen."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lightning_mixcd import GDumbMemory, GSSMemory, HerdingMemory, Ledger
from lightning_mixcd.strategies._memory import quotas
from lightning_mixcd.strategies.gss_memory import gradient_factors
from lightning_mixcd.strategies.herding_memory import herd
from lightning_mixcd.testing import toy_ledgers
from tests.oracles.chance import fits
from tests.strategies.drawing import counts, draws, labelled, started

MEMORIES = GDumbMemory, HerdingMemory, GSSMemory


def memory(strategy, ledger, seed=0):
    strategy = started(strategy, ledger, seed=seed)
    return set(draws(strategy, strategy.n_available, 1)[0])


@pytest.mark.parametrize("sizes", [[5], [3, 50, 7], [4, 4, 4, 4], [1, 2, 3, 4, 100]])
def test_places_are_dealt_out_one_by_one_to_the_class_that_has_fewest(sizes):
    held = np.zeros(len(sizes), dtype=int)
    for n in range(1, sum(sizes) + 1):
        open_ = [k for k in range(len(sizes)) if held[k] < sizes[k]]
        held[min(open_, key=lambda k: held[k])] += 1
        found = quotas(np.array(sizes), n)
        assert sorted(found) == sorted(held)
        assert (found <= sizes).all()


def test_places_of_no_class_shrink_when_the_memory_grows():
    sizes = np.array([1, 2, 3, 4, 9])
    for n in range(18):
        assert (quotas(sizes, n) <= quotas(sizes, n + 1)).all()


@pytest.mark.parametrize("kind", MEMORIES)
def test_only_the_memory_is_drawn_and_that_uniformly(kind):
    ledger = toy_ledgers()["mixed"]
    strategy = started(kind(12), ledger)
    assert strategy.n_available == 12
    found = counts(strategy, ledger.size, 4, 300)
    assert set(found[found > 0]) == {100}
    assert (found > 0).sum() == 12


@pytest.mark.parametrize("kind", MEMORIES)
def test_sizes_that_cannot_be_are_refused(kind):
    with pytest.raises(ValueError, match=r"`memory_size` must be at least 1, got 0"):
        kind(0)
    ledger = toy_ledgers()["all correct"]
    with pytest.raises(ValueError, match=r"`memory_size` must be at most .* \(30\), got 31\. .*`Uniform`"):
        started(kind(31), ledger)
    assert memory(kind(30), ledger) == set(range(30))


@pytest.mark.parametrize("kind", MEMORIES)
def test_seeds_below_zero_will_do(kind):
    assert len(memory(kind(5), toy_ledgers()["all correct"], seed=-1)) == 5


@pytest.mark.parametrize("kind", MEMORIES)
def test_streams_are_refused(kind):
    with pytest.raises(ValueError, match=rf"`pool` must be map-style for {kind.__name__}, got `Streams`"):
        kind(3).setup_streams(torch.ones(2), seed=0)


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [(kind, name) for kind in MEMORIES for name in kind.needs_columns],
)
def test_a_column_that_lacks_is_named_with_the_remedy(kind, lacking):
    full = toy_ledgers()["mixed"]
    others = {name: full.column(name) for name in full.columns if name != lacking}
    with pytest.raises(
        ValueError, match=rf"must have a column `{lacking}` .* for {kind.__name__}, got columns"
    ):
        started(kind(5), Ledger.from_arrays(**others))


def test_gdumb_has_as_many_of_each_class_and_any_of_them():
    ledger = labelled(20, 6, 2)
    chosen = np.zeros(28)
    for seed in range(400):
        members = memory(GDumbMemory(10), ledger, seed)
        assert np.bincount(ledger.column("label")[list(members)]).tolist() == [4, 4, 2]
        chosen[list(members)] += 1
    assert fits(chosen[:20])
    assert fits(chosen[20:26])


def rows(n, d, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) + 1


def test_herding_picks_whatever_brings_the_mean_closest():
    features = rows(15, 3)
    features[4] = 0
    unit = np.array([x / max(np.linalg.norm(x), 1e-9) for x in features])
    picked = []
    for _ in range(15):
        open_ = [i for i in range(15) if i not in picked]
        picked.append(
            min(open_, key=lambda i: np.linalg.norm(unit.mean(axis=0) - unit[[*picked, i]].mean(axis=0)))
        )
    assert herd(features, 15).tolist() == picked


def test_herding_is_the_same_in_half_precision_however_long_the_features():
    features = (300 * rows(15, 3)).astype(np.float16)
    assert herd(features, 15).tolist() == herd(features.astype(np.float64), 15).tolist()


def test_herding_does_without_direction():
    assert sorted(herd(np.zeros((4, 2)), 3)) == [0, 1, 2]


def test_a_smaller_herd_is_the_beginning_of_a_larger_one():
    ledger = labelled(20, 6, 2).with_columns(features=rows(28, 4))
    memories = [memory(HerdingMemory(n), ledger) for n in range(1, 29)]
    assert all(small < large for small, large in pairwise(memories))
    assert memory(HerdingMemory(9), ledger, seed=0) == memory(HerdingMemory(9), ledger, seed=1)


def per_sample_gradients(features, label, head):
    """The gradient of each sample's loss by all parameters of the last layer, one backward each."""
    found = []
    for x, y in zip(features, label, strict=True):
        head.zero_grad()
        nn.functional.cross_entropy(head(x)[None], y[None]).backward()
        found.append(torch.cat([p.grad.flatten() for p in head.parameters()]))
    return torch.stack(found)


def test_cosines_of_gradients_are_those_of_autograd():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    label = torch.randint(4, (12,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = nn.Linear(5, 4, dtype=torch.float64)
    gradients = nn.functional.normalize(per_sample_gradients(features, label, head))
    error, feature = gradient_factors(head(features).detach().numpy(), features.numpy(), label.numpy())
    np.testing.assert_allclose((error @ error.T) * (feature @ feature.T), gradients @ gradients.T, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_gss_admits_as_its_algorithm_says(seed):
    # With everything compared, the plain algorithm on whole gradients, with chance taken in the same order.
    n, size = 60, 4
    rng = np.random.default_rng(3)
    columns = {
        "label": rng.integers(3, size=n),
        "logits": rng.normal(size=(n, 3)),
        "features": rows(n, 4) - 1,
    }
    ledger = Ledger.from_arrays([True] * n, [0.1] * n, **columns)
    error, feature = gradient_factors(columns["logits"], columns["features"], columns["label"])
    gradients = [np.outer(e, f).ravel() for e, f in zip(error, feature, strict=True)]
    chance = np.random.default_rng(seed)
    held, scores = [], []
    for i in chance.permutation(n):
        if held:
            chance.choice(len(held), len(held), replace=False)
        score = max([gradients[i] @ gradients[j] for j in held], default=-0.9) + 1
        if len(held) < size:
            held.append(int(i))
            scores.append(score)
        elif score < 1:
            victim = chance.choice(size, p=np.array(scores) / sum(scores))
            if chance.random() < scores[victim] / (scores[victim] + score):
                held[victim], scores[victim] = int(i), score
    assert memory(GSSMemory(size, compared=size), ledger, seed=seed) == set(held)


def test_gss_keeps_a_direction_that_a_random_memory_would_mostly_miss():
    rare = np.arange(200) % 20 == 0
    ledger = Ledger.from_arrays(
        [True] * 200, [0.1] * 200, label=np.zeros(200, int), logits=np.ones((200, 2)),
        features=np.where(rare[:, None], [[-2.0, 0.0]], [[2.0, 0.5]]),
    )  # fmt: skip
    assert all(rare[list(memory(GSSMemory(10), ledger, seed))].any() for seed in range(20))


def test_gss_survives_gradients_that_are_opposite_or_absent():
    logits = np.array([[900.0, 0.0]] + [[0.0, 0.0]] * 7)
    ledger = Ledger.from_arrays(
        [True] * 8, [0.1] * 8, label=[0, 1] * 4, logits=logits, features=np.zeros((8, 1))
    )
    for seed in range(20):
        assert len(memory(GSSMemory(1), ledger, seed)) == 1


def test_gss_refuses_labels_that_are_no_classes():
    ledger = Ledger.from_arrays(
        [True] * 2, [0.1] * 2, label=[0, 3], logits=np.zeros((2, 3)), features=np.zeros((2, 1))
    )
    with pytest.raises(
        ValueError, match=r"`label` must name classes of `logits`, 0 to 2, got values from 0 to 3"
    ):
        started(GSSMemory(1), ledger)
    with pytest.raises(ValueError, match=r"`compared` must be at least 1, got 0\. The default is 10"):
        GSSMemory(1, compared=0)
