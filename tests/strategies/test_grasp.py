"""From the typical to the odd, class by class."""

import numpy as np
import pytest
import torch

from lightning_mixcd import Grasp
from tests.oracles.chance import fits
from tests.strategies.drawing import draws, labelled, started

SIZES = 40, 25, 5
FEATURES = np.random.default_rng(0).normal(size=(70, 3))
LEDGER = labelled(*SIZES).with_columns(features=FEATURES)


def walk(k):
    """The members of a class by distance to its mean, the slow way."""
    members = [i for i, label in enumerate(LEDGER.column("label")) if label == k]
    mean = np.mean([FEATURES[i] for i in members], axis=0)
    return sorted(members, key=lambda i: np.linalg.norm(FEATURES[i] - mean))


def drawn_of(k, drawn):
    return [i for draw in drawn for i in draw if LEDGER.column("label")[i] == k]


def test_each_class_is_gone_through_from_its_mean_outwards_again_and_again():
    drawn = draws(started(Grasp(), LEDGER), 1, 150)
    for k in range(3):
        found = drawn_of(k, drawn)
        assert len(found) > SIZES[k]
        assert found == (walk(k) * 20)[: len(found)]


def test_classes_are_alike():
    drawn = draws(started(Grasp(), LEDGER), 1, 900)
    assert fits([len(drawn_of(k, drawn)) for k in range(3)])


def test_a_class_of_many_blocks(monkeypatch):
    from lightning_mixcd.strategies import _binned, grasp

    monkeypatch.setattr(_binned, "BLOCK", 7)
    monkeypatch.setattr(grasp, "BLOCK", 7)
    test_each_class_is_gone_through_from_its_mean_outwards_again_and_again()


def test_half_precision_makes_no_difference_however_long_the_features():
    half = (9000 * FEATURES).astype(np.float16)
    found = [
        draws(started(Grasp(), labelled(*SIZES).with_columns(features=features)), 1, 150)
        for features in (half, half.astype(np.float64))
    ]
    assert found[0] == found[1]


def test_streams_are_refused():
    with pytest.raises(ValueError, match=r"`pool` must be map-style for Grasp, got `Streams`"):
        Grasp().setup_streams(torch.ones(2), seed=0)
