"""Fingerprints of models: another architecture, precision or set of weights is told apart."""

import copy
import json

import pytest
import torch
from torch import nn

from lightning_mixcd.ledger.model_fingerprint import fingerprint_model, model_difference


class Tied(nn.Module):
    """A bit of everything: large and small weights, buffers, tied names, state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(300, 64)
        self.head = nn.Linear(64, 300)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(64)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def get_extra_state(self):
        return {"note": "no tensor"}

    def set_extra_state(self, state):
        pass


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Tied()


def difference(one, other):
    return model_difference(fingerprint_model(one), fingerprint_model(other))


def test_copies_agree(model):
    assert fingerprint_model(model) == fingerprint_model(copy.deepcopy(model))
    assert difference(model, copy.deepcopy(model)) is None


def test_a_fingerprint_survives_json(model):
    fingerprint = fingerprint_model(model)
    assert json.loads(json.dumps(fingerprint)) == fingerprint


def test_names_shapes_and_dtypes_are_those_of_the_state_dict(model):
    tensors = fingerprint_model(model)["tensors"]
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    assert tensors.keys() == state.keys()
    assert {name: tuple(entry["shape"]) for name, entry in tensors.items()} == {
        name: tuple(value.shape) for name, value in state.items()
    }
    assert tensors["norm.num_batches_tracked"]["dtype"] == "int64"


def test_mode_and_scratch_buffers_do_not_count(model):
    other = copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
    other.scratch += 1
    assert difference(model, other) is None


@pytest.mark.parametrize("name", ["head.bias", "norm.running_mean", "norm.num_batches_tracked"])
def test_every_element_of_a_small_tensor_counts(model, name):
    tensor = model.state_dict()[name]
    for position in {0, tensor.numel() // 2, tensor.numel() - 1}:
        other = copy.deepcopy(model)
        other.state_dict()[name].view(-1)[position] += 1
        found = difference(model, other)
        assert found == f"same architecture, other weights: 1 of 8 tensors differ, `{name}`"


def test_a_trained_large_tensor_is_noticed():
    one, other = nn.Linear(4096, 64, bias=False), nn.Linear(4096, 64, bias=False)
    with torch.no_grad():
        other.weight.copy_(one.weight)
        assert difference(one, other) is None
        # One column in eight: a step of 64 along rows of 4096 would always read the same columns.
        other.weight[:, 3::8] += 1
    assert "other weights: 1 of 1 tensors differ" in difference(one, other)


@pytest.mark.parametrize("shape", [(4097,), (4096, 4), (7, 4096), (17, 31, 37), (2, 100_003), (100_000, 1)])
def test_large_tensors_are_read_at_few_places(shape, monkeypatch):
    read = []

    def spy(tensor):
        read.append(tensor.numel())
        return b""

    monkeypatch.setattr("lightning_mixcd.ledger.model_fingerprint.tensor_bytes", spy)
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(shape))
    fingerprint_model(module)
    assert 1000 <= read[0] <= 4096


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_precision_is_told(model, dtype):
    found = difference(model, copy.deepcopy(model).to(dtype))
    name = str(dtype).removeprefix("torch.")
    assert found.startswith(f"same architecture, other precision: `embed.weight` float32 vs {name}")


def test_weights_of_low_precision_count(model):
    half = model.to(torch.bfloat16)
    other = copy.deepcopy(half)
    assert difference(half, other) is None
    other.head.bias.data[0] += 1
    assert "other weights" in difference(half, other)


def test_another_architecture_names_the_first_few():
    one = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5), nn.Linear(5, 6))
    assert difference(one, other) == (
        "other architecture: `1.bias` (4,) vs (5,), `1.weight` (4, 3) vs (5, 3), `2.bias` absent vs (6,) "
        "and 1 more"
    )


def test_compiled_modules_agree(model):
    assert difference(model, torch.compile(model, backend="eager")) is None
    partly = copy.deepcopy(model)
    partly.norm = torch.compile(partly.norm, backend="eager")
    assert difference(model, partly) is None


def test_memory_format_does_not_matter():
    conv = nn.Conv2d(8, 64, 5)
    assert difference(conv, copy.deepcopy(conv).to(memory_format=torch.channels_last)) is None


def test_content_on_the_meta_device_is_not_compared(model):
    assert difference(model, copy.deepcopy(model).to("meta")) is None
    assert "other architecture" in difference(model, nn.Linear(2, 2, device="meta"))


def test_a_module_without_weights_has_a_fingerprint():
    assert fingerprint_model(nn.ReLU()) == {"tensors": {}}
    hollow = nn.Module()
    hollow.weight = nn.Parameter(torch.empty(2, 0))
    assert fingerprint_model(hollow)["tensors"]["weight"]["shape"] == [2, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_devices_agree(model, dtype):
    model = model.to(dtype)
    assert difference(model, copy.deepcopy(model).cuda()) is None
