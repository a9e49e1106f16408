"""One bin."""

from lightning_mixcd.ledger import Ledger
from lightning_mixcd.partitions import Single


def test_all_samples_in_one_bin():
    ledger = Ledger.from_arrays(correct=[True, False, True], loss=[0.1, 3.0, 0.2])
    assert Single().bins(ledger).tolist() == [0, 0, 0]
