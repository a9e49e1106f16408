import csv
import gzip
import json

import numpy as np
import pytest

from lightning_mixcd.tasks import TextRows
from lightning_mixcd.tasks.texts import joint_labels

ROWS = [
    {"query": "play music", "intent": "play", "domain": "media"},
    {"query": "card lost", "intent": "lost", "domain": "bank"},
    {"query": "play", "intent": "play", "domain": "media"},
]


def write(path):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0])
            writer.writeheader()
            writer.writerows(ROWS)
    elif path.suffix == ".parquet":
        from datasets import Dataset

        Dataset.from_list(ROWS).to_parquet(str(path))
    else:
        with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in ROWS)
    return path


def task(path, kind="json", **kwargs):
    source = {"path": kind, "data_files": {"train": str(path)}, "cache_dir": str(path.parent / "cache")}
    return TextRows(source, {"text": "query", "label": "intent"}, **kwargs)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.json", "json"), ("a.jsonl.gz", "json"), ("a.csv", "csv"), ("a.parquet", "parquet")],
)
def test_files_of_each_kind_are_read_in_order(tmp_path, name, kind):
    loaded = task(write(tmp_path / name), kind, columns=["domain"]).load("train", ["text", "label"])
    assert loaded["text"] == [row["query"] for row in ROWS]
    assert loaded["label"] == [row["intent"] for row in ROWS]
    assert loaded["domain"] == [row["domain"] for row in ROWS]


def test_file_that_is_not_there_is_named_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.jsonl.*MIXCD_DATA"):
        task(tmp_path / "absent.jsonl").load("train", ["text"])


def test_names_get_one_number_each_over_all_splits():
    splits = [np.array(["play", "lost"]), np.array(["lost", "help"]), np.array(["play"])]
    first, second, third = joint_labels(splits)
    assert first[0] == third[0]
    assert first[1] == second[0]
    assert sorted({*first, *second}) == [0, 1, 2]


def test_numbers_stay_as_they_are():
    assert [part.tolist() for part in joint_labels([np.array([7, 0]), np.array([150])])] == [[7, 0], [150]]


@pytest.mark.parametrize("other", [np.array([1]), np.array([0.5]), np.array([None])])
def test_numbers_beside_names_are_refused(other):
    with pytest.raises(ValueError, match=r"`label` must hold whole numbers in both tasks, or names in both"):
        joint_labels([np.array(["play"]), other])


def test_rows_without_a_class_are_refused():
    with pytest.raises(ValueError, match=r"`label` must be 0 or more.*Leave rows without a class out"):
        joint_labels([np.array([0, 1]), np.array([2, -1])])


def named(path, names, numbers):
    """A set that knows the names of its numbers, as those of the hub do."""
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features({"query": Value("string"), "intent": ClassLabel(names=names)})
    rows = {"query": ["a"] * len(numbers), "intent": numbers}
    Dataset.from_dict(rows, features=features).to_parquet(str(path))
    return np.asarray(task(path, "parquet").load("train", ["label"])["label"])


def test_numbers_with_names_go_by_their_names(tmp_path):
    # The same number is another class in each, and the same class another number.
    splits = [
        named(tmp_path / "a.parquet", ["yes", "no"], [0, 1]),
        named(tmp_path / "b.parquet", ["no", "maybe"], [0, 1]),
    ]
    assert [part.tolist() for part in splits] == [["yes", "no"], ["no", "maybe"]]
    assert [part.tolist() for part in joint_labels(splits)] == [[2, 1], [1, 0]]


def test_numbers_with_names_beside_numbers_without_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"whole numbers in both tasks, or names in both"):
        joint_labels([named(tmp_path / "a.parquet", ["yes", "no"], [0, 1]), np.array([0, 1])])


@pytest.mark.parametrize("none", [-1, None])
def test_rows_without_a_class_are_refused_where_classes_have_names(tmp_path, none):
    with pytest.raises(ValueError, match=rf"Column 'intent' of .* must hold a class .*got {none} in row 1"):
        named(tmp_path / "a.parquet", ["yes", "no"], [0, none])
