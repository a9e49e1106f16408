"""L2SP under FSDP2: the weights, the term and the resumed run of one process."""

import pytest
import torch

from lightning_mixcd.penalties import L2SP
from tests.integration.launching import together
from tests.penalties.starting import fit
from tests.toys import Toy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return together(tmp_path_factory, "sharded_penalty_process", 2)[1]


def assert_close(found, expected):
    torch.testing.assert_close(torch.tensor(found), expected, rtol=1e-3, atol=1e-4)


def test_weights_and_anchors_are_those_of_one_process(ranks):
    module, penalty = Toy(), L2SP(0.5)
    fit(module, penalty, max_epochs=2)
    for rank in ranks:
        weights, state = rank["whole"]
        for found, expected in zip(weights, module.parameters(), strict=True):
            assert_close(found, expected.detach())
        assert state.keys() == penalty.state_dict().keys()
        for name, expected in penalty.state_dict().items():
            assert_close(state[name], expected)


def test_logged_loss_is_that_of_one_process(ranks):
    penalty = L2SP(0.5)
    fit(Toy(), penalty)
    expected = penalty.metrics()["loss"].item()
    assert [rank["loss"] for rank in ranks] == pytest.approx([expected] * 2, rel=1e-3)


def test_resumed_run_is_the_uninterrupted_one(ranks):
    assert all(rank["resumed"] == rank["whole"] for rank in ranks)


def test_penalties_that_look_at_rows_are_refused(ranks):
    assert all("sharded" in rank["refused"] for rank in ranks)
