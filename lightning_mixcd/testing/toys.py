"""Small pools with every shape of trouble."""

import numpy as np

from lightning_mixcd.ledger import Ledger

__all__ = ["MAIN", "toy_ledgers"]

MAIN = "mixed"


def toy_ledgers() -> dict[str, Ledger]:
    """Make the ledgers that parts are checked on.

    All have the columns `label` (three classes, of 70%, 30%, and one single sample), `source` (strings),
    `features` (three clusters in the plane) and `logits` (of the three classes).

    Returns:
        Ledgers by name: `"mixed"`, `"two samples"`, `"all correct"` and `"few correct"`.

    Example:
        >>> {name: (ledger.size, int(ledger.correct.sum())) for name, ledger in toy_ledgers().items()}
        {'mixed': (90, 60), 'two samples': (2, 2), 'all correct': (30, 30), 'few correct': (40, 3)}
    """
    return {
        MAIN: _ledger(90, wrong=range(0, 90, 3)),
        "two samples": _ledger(2),
        "all correct": _ledger(30),
        "few correct": _ledger(40, wrong=range(3, 40)),
    }


def _ledger(n: int, wrong: range = range(0)) -> Ledger:
    rng = np.random.default_rng(n)
    correct = ~np.isin(np.arange(n), wrong)
    # Rounded, so that many losses are equal.
    loss = np.where(correct, rng.exponential(0.2, n).round(1), 2.0)
    label = (np.arange(n) % 10 >= 7).astype(np.int64)
    label[1] = 2
    cluster = rng.integers(3, size=n)
    features = rng.normal(cluster[:, None] * 5, 1, size=(n, 2))
    source = np.array(["books", "news", "web"])[cluster]
    logits = rng.normal(np.eye(3)[label] * 2, 1)
    return Ledger.from_arrays(correct, loss, label=label, source=source, features=features, logits=logits)
