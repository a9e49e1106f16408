"""Equal bins by rank of the loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import ByLossQuantile

samples = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.5])), min_size=1, max_size=60
)


def bins(rows, n_bins):
    correct, loss = (list(column) for column in zip(*rows, strict=True))
    return ByLossQuantile(n_bins).bins(Ledger.from_arrays(correct=correct, loss=loss)).tolist()


@given(samples.filter(lambda rows: any(correct for correct, _ in rows)), st.data())
def test_correct_samples_are_dealt_out_by_rank(rows, data):
    right = [i for i, (correct, _) in enumerate(rows) if correct]
    n_bins = data.draw(st.integers(1, len(right)))
    found = bins(rows, n_bins)
    # By loss and, where losses are equal, by index, bins never go down; sizes differ by one at most.
    ordered = [found[i] for i in sorted(right, key=lambda i: (rows[i][1], i))]
    sizes = np.bincount(ordered, minlength=n_bins)
    assert ordered == sorted(ordered)
    assert sizes.max() - sizes.min() <= 1


@given(samples.filter(lambda rows: any(correct for correct, _ in rows)), st.data())
def test_bins_are_as_an_explicit_ranking_says(rows, data):
    ranked = sorted((loss, i) for i, (correct, loss) in enumerate(rows) if correct)
    n_bins = data.draw(st.integers(1, len(ranked)))
    expected = {i: rank * n_bins // len(ranked) for rank, (_, i) in enumerate(ranked)}
    for i, (correct, loss) in enumerate(rows):
        if not correct:
            # With the first right sample that has no smaller loss.
            expected[i] = next((expected[j] for other, j in ranked if other >= loss), n_bins - 1)
    assert bins(rows, n_bins) == [expected[i] for i in range(len(rows))]


def test_many_equal_losses_still_fill_all_bins():
    assert bins([(True, 0.0)] * 9 + [(True, 2.0)], 5) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_wrong_samples_take_no_room_from_the_right_ones():
    assert bins([(False, 9.0), (True, 0.1), (False, 0.0), (True, 0.3), (False, 0.2)], 2) == [1, 0, 0, 1, 1]


def test_more_bins_than_correct_samples_are_refused():
    message = (
        r"`n_bins` \(3\) must be at most the number of base-correct samples \(2\), .* `ByLossQuantile\(2\)`"
    )
    with pytest.raises(ValueError, match=message):
        bins([(True, 0.1), (True, 0.2), (False, 0.3)], 3)


def test_no_bins_are_refused():
    with pytest.raises(ValueError, match=r"`n_bins` must be at least 1, got 0\. The default is 10"):
        ByLossQuantile(0)


def test_another_column_may_stand_for_the_loss():
    score = [0.3, -2.0, 5.0, 0.1]
    ledger = Ledger.from_arrays(correct=[True] * 4, loss=[0.0] * 4, influence=score)
    as_loss = Ledger.from_arrays(correct=[True] * 4, loss=np.array(score) + 2)
    assert (
        ByLossQuantile(2, column="influence").bins(ledger).tolist()
        == ByLossQuantile(2).bins(as_loss).tolist()
    )


@pytest.mark.parametrize("values", [["a", "b"], [[1.0], [2.0]], [1.0, float("nan")]])
def test_a_column_without_an_order_is_refused(values):
    ledger = Ledger.from_arrays(correct=[True] * 2, loss=[0.0] * 2, other=values)
    with pytest.raises(ValueError, match=r"`column` must name finite numbers, one per sample, but 'other'"):
        ByLossQuantile(2, column="other").bins(ledger)
