"""Two processes learn from losses and features what one would that has seen the rows of both."""

import pytest
import torch

from lightning_mixcd.types import Outcome
from tests.integration.launching import together
from tests.integration.learning_process import CUT, STRATEGIES
from tests.integration.one_process import OneProcess, assert_shared_out
from tests.penalties.replay import base_net, full_ledger
from tests.toys import N_POOL

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("name", STRATEGIES)]
ROWS_PER_DRAW = 8


class Learning(OneProcess):
    """Goes by what rows showed, and by the head as it was after each batch."""

    def __init__(self, name, signals):
        self.head, self.signals = base_net()[-1], signals
        strategy = STRATEGIES[name]()
        if strategy.needs_features:
            strategy.attach(self.head)
        strategy.setup(N_POOL, full_ledger(), seed=0)
        super().__init__(ROWS_PER_DRAW, strategy)

    def batch(self, rows, furthest, *, steps):
        if self.strategy.needs_features:
            n = sum(parameter.numel() for parameter in self.head.parameters())
            now = torch.tensor(self.signals[len(self.rates)][-n:])
            torch.nn.utils.vector_to_parameters(now, self.head.parameters())
        super().batch(rows, furthest, steps=steps)

    def outcome(self, rows):
        seen = {key: torch.tensor([row[key] for row in rows]) for key in rows[0]}
        index, right, loss, features = (seen[key] for key in ("index", "right", "loss", "features"))
        # How a sample was drawn is known to the ranks; here it may have been drawn again since.
        drawn = {"place": seen["place"], "margin": seen["margin"]}
        context = self.strategy.context(index)
        context |= {key: values for key, values in drawn.items() if key in context}
        return Outcome(index, right, loss, context, features=features)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return together(tmp_path_factory, "learning_process", 2)[1]


def test_ranks_know_the_same(ranks, name):
    one, two = (rank[name] for rank in ranks)
    assert one["signals"] == two["signals"]
    assert one["signals"][0] != one["signals"][-1]
    assert one["weights"] == two["weights"]


def test_ranks_learn_and_draw_what_one_process_does(ranks, name):
    runs = [rank[name] for rank in ranks]
    one = Learning(name, runs[0]["signals"])
    one.follow(runs)
    for found, expected in zip(runs[0]["signals"], one.rates, strict=True):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-4, atol=1e-4)
    assert_shared_out(runs, one)


def test_run_resumed_amid_a_lesson_is_the_uninterrupted_one(ranks, name):
    for rank in ranks:
        whole, resumed = rank[name], rank[f"{name} resumed"]
        assert resumed["seen"] == whole["seen"][CUT:]
        assert resumed["signals"] == whole["signals"][CUT:]
        assert resumed["weights"] == whole["weights"]
