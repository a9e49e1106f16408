"""Shapley values of neighbours, with the game played by hand."""

import copy

import pytest
import torch

from lightning_mixcd import ASER, CaptureError, Readout
from tests.functional.test_knn_shapley import by_definition
from tests.strategies.screening import candidates, chosen, drifted, finetune_rows, highest, some
from tests.toys import pool


def values(module, points, found, k):
    """What each of these pool samples is worth at each point, `(E, N)`."""
    trunk = copy.deepcopy(module).eval().net[:-1]
    at, near = (trunk(x[:, :-1]).detach() for x in (points[0], found[0]))
    return torch.tensor([
        by_definition([float((a - b).norm()) for b in near], (label == found[1]).tolist(), k)
        for a, label in zip(at, points[1], strict=True)
    ])


def mean_of_class_means(scores, label):
    return torch.stack([scores[label == y].mean(0) for y in label.unique()]).mean(0)


@pytest.mark.parametrize("score", ["asvm", "asv"])
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("seed", range(3))
def test_good_neighbours_of_the_pool_and_bad_ones_of_the_finetune_rows_are_chosen(score, k, seed):
    module, index = drifted(), some(15, seed)
    found, others = pool()[index[:8]], pool()[index[8:]]
    good, bad = values(module, others, found, k), values(module, finetune_rows(), found, k)
    expected = (
        good.amax(0) - bad.amin(0) if score == "asv" else mean_of_class_means(good, others[1]) - bad.mean(0)
    )
    picked = chosen(ASER(score=score, k=k), module, index, 3)
    # Values of the kind 1/8 + 1/3 are equal often, and then rounding decides.
    of = dict(zip(index[:8].tolist(), expected.tolist(), strict=True))
    best = [of[i] for i in highest(expected, index[:8], 3)]
    assert [of[i] for i in picked] == pytest.approx(best, abs=1e-6)


def test_only_the_first_half_can_be_chosen():
    module, index = drifted(), some(20)
    assert {*chosen(ASER(), module, index, 10)} == {*index[:10].tolist()}


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_default_dtype_of_the_user_does_not_matter(default):
    module, index = drifted(), some(20)
    expected = chosen(ASER(), module, index, 5)
    torch.set_default_dtype(default)
    try:
        assert chosen(ASER(), module, index, 5) == expected
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"`k` must be at least 1, got 0"),
        ({"score": "mean"}, r"`score` must be 'asvm' or 'asv', got 'mean'"),
        ({"candidates_per_row": 2}, r"must be at least 3 for ASER, got 2\. Half of them"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ASER(**options)


def test_labels_are_required():
    rule = Readout(correctness=lambda outputs, batch: outputs["logits"].argmax(1) == batch[1])
    with pytest.raises(CaptureError, match=r"ASER goes by the label of each row, and the model shows none\."):
        ASER().screen(candidates(drifted(), some(20), readout=rule), 5)
