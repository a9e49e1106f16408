"""Two processes with penalties, against one process and against a plain loop."""

import pytest
import torch

from tests.integration.launching import alike, together
from tests.integration.penalties_process import PENALTIES, fit
from tests.penalties.replay import replay
from tests.penalties.test_projections import along, by_step, mean_gradient, split_like
from tests.toys import pool

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return together(tmp_path_factory, "penalties_process", 2)[1]


@pytest.mark.parametrize("name", PENALTIES)
def test_two_processes_are_one_with_batches_twice_as_large(ranks, name):
    alone = fit(name, alike(0, 1))
    assert ranks[0][name]["weights"] == ranks[1][name]["weights"]
    assert ranks[0][name]["units"] == ranks[1][name]["units"] == alone["units"]
    torch.testing.assert_close(
        torch.tensor(ranks[0][name]["weights"]), torch.tensor(alone["weights"]), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("name", ["agem", "gem"])
def test_processes_that_rehearse_unlike_numbers_of_rows_share_one_reference(ranks, name):
    found = [rank[f"{name}, unlike"] for rank in ranks]
    assert found[0]["weights"] == found[1]["weights"]
    both = [*zip(*(by_step(rank["seen"]) for rank in found), strict=True)]
    assert any(len(step[0][1]) < len(step[1][1]) for step in both)
    bins = pool().tensors[1].tolist() if name == "gem" else None

    def gradients(net, step):
        (fine, old), (more_fine, more_old) = step
        g = (mean_gradient(net, fine) + mean_gradient(net, more_fine)) / 2  # as DDP has it
        return split_like(net, along(net, g, old + more_old, bins=bins))

    slow = torch.cat([value.flatten() for value in replay(both, gradients).values()])
    torch.testing.assert_close(torch.tensor(found[0]["weights"]), slow, rtol=1e-3, atol=1e-4)
