"""Digests tell samples apart by content, and never by where or how they are kept."""

import dataclasses
import subprocess
import sys
from collections import OrderedDict, UserDict, namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_mixcd.ledger.digest import digest_sample, tensor_bytes

Pair = namedtuple("Pair", ["x", "y"])


@dataclasses.dataclass
class Record:
    x: torch.Tensor
    y: int


class Picture:
    """Looks like a PIL image."""

    def __init__(self, content, size, mode="L"):
        self.content, self.size, self.mode = content, size, mode

    def tobytes(self):
        return self.content


def objects(*values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


DIFFERENT = [
    None, True, 1, 1.0, 1j, "1", b"1", "", [], {}, [1], [[1]], [1, 1], {"a": 1}, {"b": 1}, {"a": 2},
    ["ab", "c"], ["a", "bc"], ["astr\0b", "c"], ["a", "bstr\0c"],
    Pair(1, 2), Record(torch.ones(1), 1), Record(torch.ones(1), 2),
    torch.tensor(1), torch.tensor([1]), torch.tensor([2]), torch.tensor([1.0]), torch.ones(1).bfloat16(),
    torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [2.0]]), torch.tensor([True]), torch.tensor([1j]),
    np.array([1]), np.array([1.0]), np.array(["a"]), np.float64(1), objects("a"), objects("b"),
    Picture(b"1234", (2, 2)), Picture(b"1234", (4, 1)),
    Picture(b"1235", (2, 2)), Picture(b"1234", (2, 2), "P"),
]  # fmt: skip


def test_different_samples_have_different_digests():
    digests = [digest_sample(sample).values for sample in DIFFERENT]
    assert len(set(digests)) == len(DIFFERENT)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
        ({"a": 1}, UserDict(a=1)),
        ([1, 2], (1, 2)),
        (Pair(1, 2), (1, 2)),
        (b"1", bytearray(b"1")),
        (torch.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3).T.contiguous().T),
        (torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last)),
        (torch.ones(3), torch.ones(6)[::2]),
        (torch.ones(3), torch.ones(3, requires_grad=True)),
        (torch.eye(2), torch.eye(2).to_sparse()),
        (np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))),
        (objects("a", [1]), objects("a", [1])),
    ],
)
def test_how_a_sample_is_kept_does_not_matter(one, other):
    assert digest_sample(one).values == digest_sample(other).values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        ("a", "bc"),
        (b"a", b"bc"),
        (torch.zeros(3), torch.ones(3)),
        ({"a": 1.5}, {"a": 2.5}),
        (["a"], ["b"]),
    ],
)
def test_structure_leaves_content_out(one, other):
    assert digest_sample(one).structure == digest_sample(other).structure
    assert digest_sample(one).values != digest_sample(other).values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        ([1], [1, 1]),
        (torch.zeros(3), torch.zeros(4)),
        (torch.zeros(3), torch.zeros(3).half()),
        ({"a": 1}, {}),
    ],
)
def test_structure_keeps_types_shapes_and_dtypes(one, other):
    assert digest_sample(one).structure != digest_sample(other).structure


def test_unknown_objects_count_by_type_alone():
    assert digest_sample(Path("a")) == digest_sample(Path("b"))
    assert digest_sample(Path("a")) != digest_sample(object())
    assert digest_sample(Record) == digest_sample(Pair)  # classes, not instances


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.complex64, torch.int16]
)
def test_tensor_bytes_reads_every_dtype(dtype):
    tensor = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).to(dtype)
    assert len(tensor_bytes(tensor)) == 4 * dtype.itemsize
    assert tensor_bytes(tensor) == tensor_bytes(tensor.T.contiguous().T)


def test_tensor_bytes_is_in_logical_order():
    assert tensor_bytes(torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).T) == bytes([1, 3, 2, 4])


@pytest.mark.slow
def test_digests_agree_between_processes():
    code = (
        "import torch; from lightning_mixcd.ledger.digest import digest_sample as d;"
        "print(d({'z': {'s', 't'}, 'a': [torch.arange(3), 'x', 0.1]}).values)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == digest_sample({"a": [torch.arange(3), "x", 0.1], "z": {"s", "t"}}).values
