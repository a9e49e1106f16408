"""What all penalties on rehearsed rows refuse."""

import pytest

from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.penalties import AGEM, DER, GEM, Distillation, Start
from tests.toys import Toy


@pytest.mark.parametrize("penalty", [AGEM(), GEM(ByLabel()), DER(), Distillation(rows="rehearsed")])
def test_strategy_must_rehearse(penalty):
    kind = type(penalty).__name__
    with pytest.raises(
        ValueError, match=rf"`strategy` must rehearse, because {kind} acts on rehearsed rows.*Uniform"
    ):
        penalty.setup(Start(Toy(), None, None, 60, None, rehearses=False))
