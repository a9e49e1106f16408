"""Two processes look at the model, each at candidates of its own."""

import pytest

from tests.integration.launching import together
from tests.integration.one_process import drawn
from tests.integration.screening_process import SCREENS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return together(tmp_path_factory, "screening_process", 2)[1]


@pytest.mark.parametrize("name", SCREENS)
def test_ranks_rehearse_different_samples_and_keep_the_same_weights(ranks, name):
    one, two = (rank[name] for rank in ranks)
    steps = [drawn(run) for run in (one, two)]
    assert [[len(step) for step in rank] for rank in steps] == [[4, 4, 2] * 2] * 2
    assert not any(set(a) & set(b) for a, b in zip(*steps, strict=True))
    assert one["weights"] == two["weights"]


@pytest.mark.parametrize("name", SCREENS)
def test_compute_units_are_those_of_both(ranks, name):
    one, two = (rank[name] for rank in ranks)
    assert one["units"] == two["units"] == one["counted"] + two["counted"]
