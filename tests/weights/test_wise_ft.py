"""A curve of interpolations from one run."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixcd import RehearsalCallback, RehearsalDataModule, Uniform
from lightning_mixcd.weights import wise_ft_curve
from tests.toys import Finetune, Toy, base_state, finetune, ledger, network, pool, trainer


def finetuned(*callbacks):
    module = Toy()
    base = copy.deepcopy(module.state_dict())
    run = trainer(*callbacks, max_epochs=2)
    run.fit(module, DataLoader(finetune(), 8))
    return module, base, run


def plain_loss(base, tuned, alpha, data):
    """Mean loss at a point of the line, the obvious way."""
    net = network()
    net.load_state_dict({k: (1 - alpha) * base[k] + alpha * tuned[k] for k in tuned})
    x, y = data.tensors
    with torch.no_grad():
        return float(cross_entropy(net(x[:, :-1]), y))


def test_each_point_is_validated_and_the_model_left_as_it_was():
    module, base, _ = finetuned()
    before = copy.deepcopy(module.state_dict())
    loaders = [DataLoader(finetune(), 40), DataLoader(pool(), 60)]
    curve = wise_ft_curve(trainer(), module, base, data=loaders, alphas=[0, 0.3, 1])
    assert list(curve) == [0, 0.3, 1]
    tuned = {k.removeprefix("net."): v for k, v in before.items()}
    for alpha, found in curve.items():
        for i, data in enumerate((finetune(), pool())):
            expected = plain_loss(base_state(), tuned, alpha, data)
            assert found[f"val_loss/dataloader_idx_{i}"] == pytest.approx(expected, rel=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training


def test_both_tasks_of_a_datamodule_after_a_rehearsed_run():
    module = Toy()
    base = copy.deepcopy(module.state_dict())
    data = RehearsalDataModule(
        Finetune(), pool(), ledger=ledger(), mix_ratio=0.5, prior_val=DataLoader(pool(), 60)
    )
    trainer(RehearsalCallback(Uniform()), max_epochs=1).fit(module, datamodule=data)
    curve = wise_ft_curve(trainer(), module, base, data=data, alphas=[0.0, 1.0])
    assert curve[0.0] != curve[1.0]


def test_eleven_points_by_default():
    module, base, _ = finetuned()
    curve = wise_ft_curve(trainer(), module, base, data=DataLoader(finetune(), 40))
    assert list(curve) == pytest.approx([i / 10 for i in range(11)])


def test_model_is_restored_when_validation_fails():
    module, base, _ = finetuned()
    before = copy.deepcopy(module.state_dict())

    def fails(batch, batch_idx):
        raise RuntimeError("no")

    module.validation_step = fails
    with pytest.raises(RuntimeError, match="no"):
        wise_ft_curve(trainer(), module, base, data=DataLoader(finetune(), 8), alphas=[0.5])
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_trainer_that_averages_is_refused():
    module, base, run = finetuned(EMAWeightAveraging(decay=0.9))
    with pytest.raises(ValueError, match=r"`trainer` must not average weights.*Pass another one: Trainer\("):
        wise_ft_curve(run, module, base, data=DataLoader(finetune(), 8))
