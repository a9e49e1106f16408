"""The damaged before any others."""

import pytest

from lightning_mixcd import ScreenDamaged, Uniform, UniformCorrect
from tests.strategies.screening import alone, chosen, drifted, highest, some, was_right
from tests.toys import pool


def damaged(module, index):
    """Which of these the base model had right and the model has wrong."""
    wrong = alone(module, index)[0].argmax(1) != pool()[index][1]
    return index[wrong & was_right(index)].tolist()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", ["drawn", "loss"])
@pytest.mark.parametrize("n", [3, 30])
def test_damaged_first(order, n, seed):
    module, index = drifted(), some(40, seed)
    hurt = damaged(module, index)
    ranked = index.tolist() if order == "drawn" else highest(alone(module, index)[1], index, 40)
    expected = [i for i in ranked if i in hurt] + [i for i in ranked if i not in hurt]
    assert 3 < len(hurt) < 30
    assert chosen(ScreenDamaged(Uniform(), order=order), module, index, n) == expected[:n]


def test_what_the_base_model_had_wrong_is_not_damaged():
    module, index = drifted(), some(60)
    hurt = damaged(module, index)
    wrong = index[alone(module, index)[0].argmax(1) != pool()[index][1]]
    assert {*hurt} < {*wrong.tolist()}
    assert {*chosen(ScreenDamaged(), module, index, len(hurt))} == {*hurt}


def test_candidates_are_base_correct_unless_said_otherwise():
    assert type(ScreenDamaged().source) is UniformCorrect
    # What the base model had right must be known, whatever draws.
    assert ScreenDamaged(Uniform()).needs_ledger


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match=r"`order` must be 'drawn' or 'loss', got 'label'"):
        ScreenDamaged(order="label")
