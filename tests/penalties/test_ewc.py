"""EWC and MAS: the information of models small enough to write it down, and stages."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from lightning_mixcd.penalties import EWC, KFAC, MAS
from lightning_mixcd.penalties._gradients import log_likelihood
from lightning_mixcd.reading import Reading
from tests.penalties.starting import begun
from tests.toys import N_CLASSES, N_FEATURES, N_POOL, Toy, pool

every_label = pytest.mark.parametrize("labels", ["all", "true", "predicted"])


def importance(penalty):
    return {key.partition(".")[2]: v for key, v in penalty.state_dict().items() if "importance." in key}


class Softmax(Toy):
    """Multinomial regression: its Fisher information has a closed form."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.net = nn.Linear(N_FEATURES, N_CLASSES)
        self.net.load_state_dict({
            "weight": torch.randn(N_CLASSES, N_FEATURES, generator=generator),
            "bias": torch.randn(N_CLASSES, generator=generator),
        })


def test_expected_information_of_softmax_regression():
    module = Softmax()
    found = importance(begun(EWC(n_samples=N_POOL, labels="all"), module))
    x = pool().tensors[0][:, :N_FEATURES]
    with torch.no_grad():
        p = module.net(x).softmax(1)
    # d log p_y / d W[c, j] = ((y == c) - p_c) x_j, whose square has the mean p_c (1 - p_c) x_j^2.
    variance = p * (1 - p)
    torch.testing.assert_close(found["net.weight"], variance.T @ x.square() / N_POOL)
    torch.testing.assert_close(found["net.bias"], variance.mean(0))


def slow_importance(labels, rows):
    """One row and one label after the other."""
    module = Toy()
    sums = [torch.zeros_like(p) for p in module.parameters()]
    for i in rows:
        x, y = pool()[i]
        for label in range(N_CLASSES):
            logits = module.net(x[None, :N_FEATURES])
            odds = logits.softmax(1)[0].detach()
            share = {
                "all": odds[label].item(),
                "true": float(label == y),
                "predicted": float(label == odds.argmax()),
            }[labels]
            loss = cross_entropy(logits, torch.tensor([label]))
            for total, gradient in zip(
                sums, torch.autograd.grad(loss, list(module.parameters())), strict=True
            ):
                total += share * gradient**2
    return [total / len(rows) for total in sums]


@every_label
def test_information_is_that_of_a_loop(labels):
    found = importance(begun(EWC(n_samples=N_POOL, labels=labels), Toy()))
    for value, expected in zip(found.values(), slow_importance(labels, range(N_POOL)), strict=True):
        torch.testing.assert_close(value, expected)


def test_labels_are_drawn_from_the_models_own_distribution():
    logits = torch.tensor([[0.3, -1.0, 1.2]])
    seen, n = Reading(torch.ones(1, dtype=torch.bool), logits=logits), 4000
    log_p = logits.log_softmax(1)[0]
    drawn = [log_likelihood(seed, seen, labels="sampled") for seed in range(n)]
    shares = torch.tensor([sum(value == log_p[c] for value in drawn) / n for c in range(3)])
    assert (shares - log_p.exp()).abs().max() < 0.03


@pytest.mark.parametrize("labels", ["sampled", "all", "predicted"])
def test_likelihood_of_half_precision_logits_is_not_rounded(labels):
    half = torch.tensor([[0.3, -1.0, 1.2]], dtype=torch.bfloat16)
    found, expected = (
        log_likelihood(5, Reading(torch.ones(1, dtype=torch.bool), logits=logits), labels=labels)
        for logits in (half, half.float())
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_sampled_information_is_that_of_its_labels():
    seeds = [begun(EWC(n_samples=N_POOL), Softmax(), seed=seed) for seed in range(12)]
    mean = torch.stack([importance(penalty)["net.bias"] for penalty in seeds]).mean(0)
    exact = importance(begun(EWC(n_samples=N_POOL, labels="all"), Softmax()))["net.bias"]
    torch.testing.assert_close(mean, exact, rtol=0.15, atol=0)


def test_rows_are_a_random_part_of_the_pool():
    data = TensorDataset(*pool().tensors)
    looked = []
    for seed in (1, 2):
        module = Toy()
        begun(EWC(n_samples=10), module, data, seed=seed)
        looked.append([i for step in module.differentiated for i in step])
    assert len({*looked[0]}) == len({*looked[1]}) == 10
    assert {*looked[0]} != {*looked[1]}


def test_synapses_are_those_of_a_loop():
    found = importance(begun(MAS(n_samples=N_POOL), Toy()))
    module, n = Toy(), N_POOL
    sums = [torch.zeros_like(p) for p in module.parameters()]
    for x, _ in pool():
        size = sum(logit**2 for logit in module.net(x[None, :N_FEATURES])[0])
        for total, gradient in zip(sums, torch.autograd.grad(size, list(module.parameters())), strict=True):
            total += gradient.abs() / n
    for value, expected in zip(found.values(), sums, strict=True):
        torch.testing.assert_close(value, expected)


def test_stages_add_up_and_the_anchor_moves_on():
    first = begun(EWC(n_samples=30, labels="all"), Toy())
    moved = Toy()
    with torch.no_grad():
        moved.net[0].weight += 0.5
    second = begun(
        EWC(n_samples=30, labels="all", previous=first.state_dict(), decay=0.25), moved
    ).state_dict()
    alone = importance(begun(EWC(n_samples=30, labels="all"), moved))
    for name, value in importance(first).items():
        torch.testing.assert_close(second[f"importance.{name}"], 0.25 * value + alone[name])
    assert torch.equal(second["anchor.net.0.weight"], moved.net[0].weight)


def test_stages_of_other_shapes_are_refused():
    first = begun(EWC(n_samples=5), Softmax()).state_dict()
    grown = Softmax()
    grown.net = nn.Linear(N_FEATURES, N_CLASSES + 1)
    with pytest.raises(ValueError, match=r"`previous` .* 'net.weight' .* \(3, 4\) .* \(4, 4\)"):
        begun(EWC(n_samples=5, previous=first), grown)
    with pytest.raises(ValueError, match=r"`previous` .* no parameter"):
        begun(EWC(n_samples=5, previous=first), Toy())


class Losses(Toy):
    def outputs(self, loss, logits):
        return {"loss": loss, "correct": logits[:, 0] > 0, "losses": logits[:, 0]}


@pytest.mark.parametrize("make", [EWC, MAS])
def test_missing_logits_are_named(make):
    with pytest.raises(ValueError, match="needs logits"):
        begun(make(n_samples=5), Losses())


@pytest.mark.parametrize("kind", [EWC, KFAC])
@pytest.mark.parametrize("labels", ["sampled", "all", "predicted"])
def test_single_outputs_have_no_likelihood(kind, labels):
    class Single(Toy):
        def outputs(self, loss, logits):
            return {"loss": loss, "correct": logits[:, 0] > 0, "logits": logits[:, :1]}

    with pytest.raises(
        ValueError, match=rf'`labels="{labels}"` .* 2 classes or more, .* gave \(1, 1\)\. .*`MAS`'
    ):
        begun(kind(n_samples=5, labels=labels), Single())
    assert any(value.any() for value in importance(begun(MAS(n_samples=5), Single())).values())


def test_losses_are_enough_for_true_labels():
    found = importance(begun(EWC(n_samples=N_POOL, labels="true"), Losses()))
    assert torch.equal(found["net.3.bias"], torch.tensor([1.0, 0.0, 0.0]))


class Contrastive(Toy):
    """Compares each row with the others of its batch; a row alone is sure of itself."""

    def outputs(self, loss, logits):
        odds = (logits @ logits.T).log_softmax(1)
        return {
            "loss": -odds.diag().mean(),
            "losses": -odds.diag(),
            "logits": odds,
            "correct": odds.diag() < 0,
        }


def true_labels(kind):
    return partial(kind, labels="true")


@pytest.mark.parametrize("make", [true_labels(EWC), true_labels(KFAC), MAS])
def test_rows_that_ask_for_nothing_are_refused(make):
    with pytest.raises(ValueError, match=r"got 0 for every weight and row.*contrastive.*Use `L2SP`"):
        begun(make(n_samples=5), Contrastive())


@pytest.mark.parametrize("make", [true_labels(EWC), true_labels(KFAC), MAS])
def test_row_without_a_finite_gradient_is_named(make):
    x, y = pool().tensors
    x = x.clone()
    x[7, 0] = torch.nan
    with pytest.raises(ValueError, match=r"must be finite, got inf or NaN for pool index 7, .* `losses`"):
        begun(make(n_samples=N_POOL), Toy(), TensorDataset(x, y))
