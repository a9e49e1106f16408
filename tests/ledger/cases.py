"""A small ledger with a bit of everything, and one way to record it."""

from functools import cache

import numpy as np
import torch
from torch import nn

from lightning_mixcd.ledger import LedgerWriter, fingerprint_model, fingerprint_pool

SIZE = 7
POOL = [(torch.tensor([float(i)]), i % 3) for i in range(SIZE)]
COLUMNS = {"label": np.int64, "features": ("float16", (2,)), "genre": "U6"}


def base_model():
    torch.manual_seed(3)
    return nn.Linear(1, 3)


def rows(index):
    """The one true content of each row."""
    index = np.asarray(index)
    return {
        "correct": index % 2 == 0,
        "loss": (index / 4).astype(np.float32),
        "label": index % 3,
        "features": np.stack([index, -index], axis=1).astype(np.float16),
        "genre": np.array(["tv", "law", "travel"])[index % 3],
    }


@cache
def settings():
    pool, model = fingerprint_pool(POOL), fingerprint_model(base_model())
    return {"size": SIZE, "columns": COLUMNS, "pool": pool, "model": model}


def make_writer(path, **changes):
    return LedgerWriter(path, **(settings() | changes))


def record(path, **changes):
    writer = make_writer(path, **changes)
    writer.write(np.arange(SIZE), **rows(np.arange(SIZE)))
    return writer.finish(forwards=SIZE)


def assert_true_content(ledger, size=SIZE):
    for name, expected in rows(np.arange(size)).items():
        np.testing.assert_array_equal(ledger.column(name), expected, strict=True)
