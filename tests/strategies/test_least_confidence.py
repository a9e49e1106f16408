"""The least sure of some candidates."""

import numpy as np
import pytest
import torch

from lightning_mixcd import LeastConfidence, Ledger, MostSupportive
from lightning_mixcd.errors import LedgerError
from tests.strategies.drawing import counts, draws, started

N = 60
LOGITS = np.random.default_rng(0).normal(size=(N, 4)) * 3
LEDGER = Ledger.from_arrays([True] * N, [0.1] * N, logits=LOGITS)
CONFIDENCE = torch.tensor(LOGITS).softmax(1).amax(1).numpy()


class Probe:
    def __init__(self, confidences):
        self.all = torch.tensor(confidences)

    def confidences(self, index):
        return self.all[index]


def test_confidence_is_made_of_logits():
    scored = LEDGER.with_columns(confidence=CONFIDENCE)
    assert draws(started(LeastConfidence(), LEDGER), 4, 20) == draws(
        started(MostSupportive("confidence"), scored), 4, 20
    )


def test_the_least_sure_is_drawn_whenever_it_is_a_candidate():
    least, most = int(CONFIDENCE.argmin()), int(CONFIDENCE.argmax())
    found = counts(started(LeastConfidence(), LEDGER), N, 1, 36)
    assert (found[least], found[most]) == (3, 0)


def test_a_pass_replaces_the_record():
    strategy, most = started(LeastConfidence("refresh"), LEDGER), int(CONFIDENCE.argmax())
    strategy.refresh(Probe(1 - CONFIDENCE))
    assert counts(strategy, N, 1, 36)[most] == 3


def test_it_cannot_be_learnt_from_losses():
    with pytest.raises(ValueError, match=r"`source` must be one of \['ledger', 'refresh'\], got 'last_seen'"):
        LeastConfidence("last_seen")


def test_no_logits():
    with pytest.raises(
        LedgerError, match=r"must have a column `logits` .* for LeastConfidence, got columns \["
    ):
        started(LeastConfidence(), Ledger.from_arrays([True], [0.1]))


def test_column_of_another_shape():
    with pytest.raises(LedgerError, match=r"column `logits` with 2 dimension\(s\) .*, got \(1,\)"):
        started(LeastConfidence(), Ledger.from_arrays([True], [0.1], logits=[0.3]))
