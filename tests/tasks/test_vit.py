"""The small vision Transformer."""

import torch

from lightning_mixcd import Readout
from lightning_mixcd.tasks import vit


def test_it_is_a_classifier_whose_head_is_found():
    module = vit(n_inputs=64, n_classes=5, patch=4, width=8, n_layers=1, n_heads=2)
    outputs = module.training_step((torch.rand(3, 1, 8, 8), torch.tensor([0, 4, 2])), 0)
    assert outputs["logits"].shape == (3, 5)
    outputs["loss"].backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    assert Readout().head(module) is module.network.model.classifier
