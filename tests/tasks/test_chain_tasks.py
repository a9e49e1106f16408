"""Tasks of chains: the same samples as in the pairings that they belong to."""

import json

import numpy as np
import pytest
import torch

from lightning_mixcd.tasks import (
    TextRows,
    digits_pairing,
    digits_task,
    embedded_text,
    embedded_text_tasks,
    image_pairing,
    image_task,
)


def same(one, other):
    pairs = zip(one.train.tensors + one.val.tensors, other.train.tensors + other.val.tensors, strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_digits_are_those_of_the_pairing():
    pairing = digits_pairing(shift="rot180", seed=3)
    assert same(digits_task(seed=3), pairing.prior)
    assert same(digits_task(shift="rot180", seed=3), pairing.new)


def test_turned_digits_differ_in_the_turn_alone():
    once, thrice = digits_task(shift="rot90"), digits_task(shift="rot270")
    x, y = once.train.tensors
    assert torch.equal(x.flip(2, 3), thrice.train.tensors[0])  # half a turn further
    assert torch.equal(y, thrice.train.tensors[1])


def test_images_are_those_of_the_pairing(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {f"x_{split}": rng.integers(0, 256, (5, 8, 8), dtype=np.uint8) for split in ("train", "test")}
    np.savez(file := tmp_path / "a.npz", **arrays, y_train=np.arange(5), y_test=np.arange(5))
    pairing = image_pairing(file, file, shift="transpose")
    assert same(image_task(file), pairing.prior)
    assert same(image_task(file, shift="transpose"), pairing.new)
    with pytest.raises(FileNotFoundError, match=r"must name archives that are there, got"):
        image_task(tmp_path / "b.npz")


def test_text_tasks_share_one_space_of_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(
        embedded_text, "embed", lambda texts, *_, **__: np.array([[len(text)] for text in texts])
    )

    def task(name, labels):
        files = {}
        for split in ("train", "test"):
            rows = [{"text": name + split, "label": label} for label in labels]
            (path := tmp_path / f"{name}_{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
            files[split] = str(path)
        return TextRows({"path": "json", "data_files": files})

    tasks = {name: task(name, labels) for name, labels in (("a", "xz"), ("bb", "y"), ("ccc", "zw"))}
    made = embedded_text_tasks(tasks, encoder="none")
    assert [*made] == ["a", "bb", "ccc"]
    assert [task.train.tensors[1].tolist() for task in made.values()] == [[1, 3], [2], [3, 0]]
    assert [task.train.tensors[0].tolist() for task in made.values()] == [[[6], [6]], [[7]], [[8], [8]]]
    assert [task.val.tensors[0].tolist() for task in made.values()] == [[[5], [5]], [[6]], [[7], [7]]]
