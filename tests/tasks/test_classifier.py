import pytest
import torch
from torch import nn

from lightning_mixcd.tasks import cnn, digits_pairing, mlp

DEEP = {"n_hidden": 2, "width": 5}


@pytest.mark.parametrize(("make", "options"), [(mlp, {}), (mlp, DEEP), (cnn, {})])
def test_models_take_the_batches_of_the_digits(make, options):
    pairing = digits_pairing(batch_size=8)
    module = make(n_inputs=64, n_classes=10, **options)
    outputs = module.training_step(next(iter(pairing.new.train_dataloader())), 0)
    assert outputs["logits"].shape == (8, 10)
    outputs["loss"].backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(("make", "options"), [(mlp, {}), (mlp, DEEP), (cnn, {})])
def test_head_gives_the_logits_from_the_features(make, options):
    network = make(n_inputs=64, n_classes=10, **options).network
    x = torch.rand(3, 1, 8, 8)
    assert isinstance(network.head, nn.Linear)
    assert torch.equal(network(x), network.head(network.features(x)))


def test_perceptron_has_as_many_layers_as_asked_for():
    layers = [m for m in mlp(n_inputs=7, n_classes=3, **DEEP).modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in layers] == [(7, 5), (5, 5), (5, 3)]
