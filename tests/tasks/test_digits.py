import sys

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


@pytest.mark.parametrize(
    ("shift", "corner"),
    [("rot90", (0, 7)), ("rot180", (7, 7)), ("flip", (0, 7)), ("transpose", (0, 0))],
)
def test_shift_moves_the_pixel_to_where_it_should_be(shift, corner):
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert shifted(image, shift)[0, 0, 0, 0] == image[(0, 0, *corner)]
    assert shifted(image, shift).sort().values.sum() == image.sum()


def test_unknown_shift_is_refused():
    with pytest.raises(ValueError, match=r"`shift` must be .*got 'mirror'"):
        shifted(torch.zeros(1, 1, 8, 8), "mirror")
