"""Nothing."""

import pytest
import torch

from lightning_mixcd.strategies import NoRehearsal


def test_it_never_draws():
    strategy = NoRehearsal()
    strategy.setup(10, None, seed=0)
    assert not strategy.rehearses
    assert strategy.select(4, signal=None, generator=torch.Generator()).tolist() == []
    with pytest.raises(ValueError, match=r"`n` must be between 1 and .* NoRehearsal may draw \(0\), got 1"):
        strategy.draw(1, signal=None, generator=torch.Generator())
