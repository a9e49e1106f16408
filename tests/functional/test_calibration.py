"""Rates of crossed bins: either way to sort may be useless, and few counts must do."""

import pytest
import torch

from lightning_mixcd.functional.calibration import crossed_rates
from lightning_mixcd.functional.collateral import beta_mean

ROWS = torch.tensor([[0.05], [0.1], [0.5]])
COLUMNS = torch.tensor([[0.02, 0.1, 0.6, 0.9]])
BOTH = torch.tensor([[0.5], [1.0], [1.6]]) * torch.tensor([[0.01, 0.1, 0.3, 0.6]])
# Draws that favour what is damaged most, so that row and column are far from independent.
SKEWED = torch.tensor([[900.0, 90, 9, 1], [90.0, 90, 90, 90], [1.0, 9, 90, 900]])


@pytest.mark.parametrize("rates", [ROWS.expand(3, 4), COLUMNS.expand(3, 4), BOTH])
@pytest.mark.parametrize("seen", [torch.ones(3, 4), SKEWED])
def test_many_counts_give_the_true_rates(rates, seen):
    seen = 1e5 * seen
    assert torch.allclose(crossed_rates(rates * seen, seen), rates, rtol=2e-3)


@pytest.mark.parametrize("rates", [ROWS.expand(3, 4), COLUMNS.expand(3, 4), BOTH])
def test_few_counts_come_nearer_than_a_rate_for_each_cell(rates):
    generator = torch.Generator().manual_seed(0)
    ours, each = [], []
    for _ in range(200):
        seen = torch.full((3, 4), 12.0)
        damaged = torch.binomial(seen, rates.contiguous(), generator=generator)
        ours.append((crossed_rates(damaged, seen) - rates).square().mean())
        each.append((beta_mean(damaged, seen) - rates).square().mean())
    assert torch.stack(ours).mean() < 0.8 * torch.stack(each).mean()


def test_a_cell_that_is_no_product_is_found_by_its_own_counts():
    rates = torch.tensor([[0.1, 0.1], [0.1, 0.9]])
    seen = torch.full((2, 2), 2000.0)
    assert torch.allclose(crossed_rates(rates * seen, seen), rates, atol=0.01)


def test_one_row_has_the_rates_of_its_columns():
    damaged, seen = torch.tensor([[0.0, 3.0, 7.0]]), torch.tensor([[0.0, 9.0, 7.0]])
    assert torch.equal(crossed_rates(damaged, seen), beta_mean(damaged, seen))


def test_nothing_seen_makes_all_cells_alike_and_rates_stay_in_range():
    nothing = crossed_rates(torch.zeros(3, 4), torch.zeros(3, 4))
    assert (nothing == nothing[0, 0]).all()
    assert 0 < nothing[0, 0] < 1
    seen = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]])
    assert crossed_rates(seen, seen).amax() <= 1
    # A row of ten times the damage of the other, and a column where that one has nearly all damaged.
    damaged, seen = torch.tensor([[900.0, 0], [90, 900]]), torch.tensor([[1000.0, 0], [1000, 1000]])
    assert crossed_rates(damaged, seen)[0, 1] == 1
    assert crossed_rates(torch.zeros(2, 2), seen).amin() > 0
