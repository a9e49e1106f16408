"""Candidates whose gradients stand for all, with gradients by autograd on the real head."""

import numpy as np
import pytest
import torch
from torch import nn

from lightning_mixcd import GradientMatching
from tests.functional.test_matching_pursuit import pursue
from tests.strategies.screening import chosen, drifted, some
from tests.strategies.test_last_layer_influence import head_gradient
from tests.toys import pool


@pytest.mark.parametrize("n", [1, 5, 12])
def test_choice_is_that_of_the_pursuit_with_real_gradients(n):
    module, index = drifted(), some(20)
    x, y = pool()[index]
    gradients = torch.stack([head_gradient(module, x[[i]], y[[i]]) for i in range(20)]).double().numpy()
    expected = pursue(gradients, gradients.mean(axis=0), n, 1e-3)
    assert chosen(GradientMatching(), module, index, n) == index[expected].tolist()


def test_few_stand_for_all_better_than_the_first_do():
    module, index = drifted(), some(40)
    x, y = pool()[index]
    gradients = torch.stack([head_gradient(module, x[[i]], y[[i]]) for i in range(40)]).double().numpy()

    def missing(positions):
        part = gradients[positions].T
        return np.linalg.norm(
            gradients.mean(0) - part @ np.linalg.lstsq(part, gradients.mean(0), rcond=None)[0]
        )

    where = {int(i): position for position, i in enumerate(index)}
    found = [where[i] for i in chosen(GradientMatching(), module, index, 6)]
    assert missing(found) < 0.5 * missing(list(range(6)))


def test_a_head_of_several_layers_is_refused():
    with pytest.raises(ValueError, match=r"The head must be one `nn.Linear` for GradientMatching, got Seq"):
        GradientMatching().attach(nn.Sequential(nn.Linear(2, 2)))
