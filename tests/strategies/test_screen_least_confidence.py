"""The lowest confidence first."""

import pytest

from lightning_mixcd import CaptureError, Readout, ScreenLeastConfidence
from tests.strategies.screening import alone, candidates, chosen, drifted, highest, some


@pytest.mark.parametrize("n", [1, 5, 20])
def test_least_sure_first(n):
    module, index = drifted(), some(20)
    logits, _ = alone(module, index)
    odds_against = [sum((row - row.max()).exp().tolist()) for row in logits]  # 1 / highest probability
    expected = sorted(range(20), key=lambda i: -odds_against[i])[:n]
    assert chosen(ScreenLeastConfidence(), module, index, n) == index[expected].tolist()
    assert expected != highest(alone(module, index)[1], index, n)


def test_logits_are_required():
    right = Readout(
        step=lambda module, batch: {"correct": module.net(batch[0][:, :-1]).argmax(1) == batch[1]}
    )
    with pytest.raises(CaptureError, match=r"goes by the logits of each row, .* Readout\(module=\.\.\.\)"):
        ScreenLeastConfidence().screen(candidates(drifted(), some(20), readout=right), 5)
