from dataclasses import replace

import pytest

from tests.tasks.tiny import save_rows

ROWS = [
    {"premise": "dogs run", "hypothesis": "run", "label": 0, "genre": "fiction"},
    {"premise": "who", "hypothesis": "dogs", "label": 1, "genre": "letters"},
]


def test_columns_are_found_by_the_names_that_the_data_has(tmp_path):
    rows = save_rows(tmp_path, "a", ROWS, names={"text": "premise"}, columns=["genre"])
    loaded = rows.load("train", ["text", "label"])
    assert loaded == {"text": ["dogs run", "who"], "label": [0, 1], "genre": ["fiction", "letters"]}
    assert {name: values.tolist() for name, values in rows.kept(loaded).items()} == {
        "genre": ["fiction", "letters"]
    }


def test_a_part_of_a_split_will_do(tmp_path):
    assert save_rows(tmp_path, "a", ROWS).load("train[1:]", ["label"]) == {"label": [1]}


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_so_will_every_second_row_or_third(tmp_path, every):
    rows = save_rows(tmp_path, "a", [{**ROWS[0], "label": k} for k in range(7)])
    assert rows.load(f"train[::{every}]", ["label"])["label"] == [*range(7)][::every]


def test_column_that_is_not_there_is_named_beside_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"'hypothesis', 'label', 'genre'\], got \['text'\]"):
        save_rows(tmp_path, "a", ROWS).load("train", ["text", "label"])


def test_stream_is_refused(tmp_path):
    rows = save_rows(tmp_path, "a", ROWS)
    with pytest.raises(ValueError, match=r"`source` must be read as a whole, got streaming=True. .* as `Str"):
        replace(rows, source={**rows.source, "streaming": True}).load("train", ["label"])


@pytest.mark.parametrize("text", ["", " \n", None])
def test_row_without_a_text_is_named(tmp_path, text):
    rows = save_rows(tmp_path, "a", [*ROWS, {**ROWS[0], "premise": text}], names={"text": "premise"})
    with pytest.raises(
        ValueError, match=r"Column 'premise' of .* must hold a text in every row, .* in row 2"
    ):
        rows.load("train", ["text"])


@pytest.mark.parametrize("target", [3, None, ""])
def test_column_for_partitions_may_have_the_name_of_a_text_of_other_tasks(tmp_path, target):
    rows = [{"text": "dogs run", "target": target}]
    rows = save_rows(tmp_path, "a", rows, columns=["target"])
    assert rows.load("train", ["text"])["target"] == [target]


@pytest.mark.parametrize(
    ("label", "labels"), [(None, [0, 1]), (-1, [0, 1]), (None, ["a", "b"]), ([0, 1], [])]
)
def test_row_without_a_class_or_with_several_is_named(tmp_path, label, labels):
    rows = [{"gold": label} for label in [*labels, label]]
    rows = save_rows(tmp_path, "a", rows, names={"label": "gold"})
    match = rf"Column 'gold' of .* must hold a class .*in row {len(labels)}\."
    with pytest.raises(ValueError, match=match):
        rows.load("train", ["label"])


def test_name_of_no_column_of_the_task_is_refused(tmp_path):
    rows = save_rows(tmp_path, "a", ROWS, names={"text": "premise", "textpair": "hypothesis"})
    with pytest.raises(ValueError, match=r"`names` must .* got \['textpair'\] beside \['text', 'label'\]"):
        rows.load("train", ["text", "label"])
