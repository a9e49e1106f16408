import sys
from itertools import product

import pytest
import torch

from lightning_mixcd.tasks import Digits
from lightning_mixcd.tasks.digits import shifted


def test_sets_do_not_overlap_and_leave_nothing_out():
    from sklearn.datasets import load_digits

    digits = Digits.load(shift="invert", seed=3)
    new = [(1 - x, y) for part in (digits.new_train, digits.new_test) for x, y in part]
    dealt = [
        tuple((16 * x).round().int().flatten().tolist())
        for x, _ in [*digits.prior_train, *digits.prior_test, *new]
    ]
    images = [tuple(int(v) for v in image) for image in load_digits().data]
    assert sorted(dealt) == sorted(images)


def test_what_to_install_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"scikit-learn\. Install it with .*\[demo\]"):
        Digits.load()


def test_seed_decides_the_deal():
    first, again, other = (Digits.load(seed=seed).prior_train.tensors[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Row and column that a pixel comes from, by its own.
SOURCES = {
    "rot90": lambda row, column: (column, 7 - row),
    "rot180": lambda row, column: (7 - row, 7 - column),
    "rot270": lambda row, column: (7 - column, row),
    "flip": lambda row, column: (row, 7 - column),
    "transpose": lambda row, column: (column, row),
}


@pytest.mark.parametrize("shift", SOURCES)
def test_shift_takes_each_pixel_from_where_it_should(shift):
    image = torch.arange(64.0).view(1, 1, 8, 8)
    found = shifted(image, shift)
    for row, column in product(range(8), range(8)):
        assert found[0, 0, row, column] == image[(0, 0, *SOURCES[shift](row, column))]


def test_unknown_shift_is_refused():
    with pytest.raises(ValueError, match=r"`shift` must be .*got 'mirror'"):
        shifted(torch.zeros(1, 1, 8, 8), "mirror")
