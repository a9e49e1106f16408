"""Plans: what is recorded, there and back through JSON, and how two of them differ."""

import json
from pathlib import Path

import pytest
from torch import nn

from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger.model_fingerprint import fingerprint_model
from lightning_mixcd.ledger.plan import make_plan, plan_difference, plan_from_document, plan_to_document
from lightning_mixcd.ledger.pool_fingerprint import fingerprint_pool

POOL = fingerprint_pool(list(range(5)))
MODEL = fingerprint_model(nn.Linear(2, 3))


def plan(size=5, columns=(("features", ("float16", (2, 3))), ("genre", "U8")), pool=POOL, model=MODEL):
    return make_plan(size, dict(columns), pool, model)


@pytest.mark.parametrize("changes", [{}, {"pool": None}, {"model": None}, {"columns": ()}])
def test_round_trip_through_json(changes):
    document = json.loads(json.dumps(plan_to_document(plan(**changes))))
    assert plan_from_document(document, Path("header.json")) == plan(**changes)


def test_columns_are_described_for_other_readers():
    columns = plan_to_document(plan())["columns"]
    assert columns["features"] == {"dtype": "<f2", "shape": [5, 2, 3]}
    assert columns["correct"] == {"dtype": "|b1", "shape": [5]}


@pytest.mark.parametrize("size", [0, -1])
def test_size_must_be_positive(size):
    with pytest.raises(ValueError, match=f"`size` must be at least 1, got {size}"):
        plan(size=size, pool=None)


def test_size_must_be_that_of_the_pool():
    with pytest.raises(ValueError, match="`size` must be that of `pool`, 5, got 4"):
        plan(size=4)


@pytest.mark.parametrize("name", ["pool", "model"])
def test_fingerprints_must_be_ours(name):
    with pytest.raises(ValueError, match=f"`{name}` must be what `fingerprint_{name}` returns, got .*'id'"):
        plan(**{name: {"id": "mine"}})


@pytest.mark.parametrize("key", ["size", "columns", "pool", "model"])
@pytest.mark.parametrize("value", ["delete", 0, "x", [1]])
def test_other_documents_are_refused(key, value):
    document = plan_to_document(plan())
    if value == "delete":
        del document[key]
    else:
        document[key] = value
    with pytest.raises(LedgerError, match=r"header\.json` is damaged: it does not describe a ledger"):
        plan_from_document(document, Path("header.json"))


def test_columns_of_a_document_cannot_leave_the_folder():
    document = plan_to_document(plan())
    document["columns"]["../../secret"] = document["columns"]["loss"]
    with pytest.raises(LedgerError, match="does not describe a ledger"):
        plan_from_document(document, Path("header.json"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": 4, "pool": None}, "size: 5 vs 4; pool: a fingerprint vs no fingerprint"),
        (
            {"columns": ()},
            "columns: correct bool (N,), .* genre <U8 (N,) vs correct bool (N,), loss float32 (N,)",
        ),
        ({"pool": fingerprint_pool(list(range(1, 6)))}, "pool: content: 5 of 5 probed samples differ"),
        ({"pool": None}, "pool: a fingerprint vs no fingerprint"),
        ({"model": None}, "model: a fingerprint vs no fingerprint"),
        ({"model": fingerprint_model(nn.Linear(2, 4))}, "model: other architecture: `bias` (3,) vs (4,)"),
    ],
)
def test_differences_are_told(changes, expected):
    found = plan_difference(plan(), plan(**changes))
    for part in expected.split(" .* "):
        assert part in found


def test_a_fingerprint_that_appears_is_a_difference():
    assert plan_difference(plan(model=None), plan()) == "model: no fingerprint vs a fingerprint"


def test_plans_hold_fingerprints_as_they_will_be_read_back():
    mine = {key: tuple(value) if isinstance(value, list) else value for key, value in POOL.items()}
    kept = plan(pool=mine)
    assert kept == plan()
    mine["size"] = 99
    assert kept == plan()


def test_equal_plans_do_not_differ():
    assert plan_difference(plan(), plan()) is None
    assert plan_difference(plan(pool=None, model=None), plan(pool=None, model=None)) is None
    assert plan_difference(plan(), plan(columns=(("genre", "U8"), ("features", ("float16", (2, 3)))))) is None
