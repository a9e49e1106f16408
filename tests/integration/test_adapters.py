"""Adapters in two processes: they learn what one process learns, and leave the same blocks."""

import pytest
import torch

from tests.adapters.low_rank import learnt_by
from tests.integration.launching import together

pytestmark = pytest.mark.slow


def test_two_processes_learn_what_one_does(tmp_path_factory):
    ranks = [found["adapter"] for found in together(tmp_path_factory, "penalties_process", 2)[1]]
    alone = learnt_by(0, 1)
    assert ranks[0] == ranks[1]
    assert len(alone["blocks"]) == 3
    assert ranks[0]["blocks"] == alone["blocks"]
    found, expected = torch.tensor(ranks[0]["outputs"]), torch.tensor(alone["outputs"])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
