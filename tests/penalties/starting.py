"""A penalty's start without a trainer, and fits in which nothing but a penalty moves weights."""

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader

from lightning_mixcd import NoRehearsal, RehearsalCallback
from lightning_mixcd.capture import Readout
from lightning_mixcd.look import Look
from lightning_mixcd.penalties import Start
from tests.toys import Toy, finetune, pool, trainer


def start_of(module, data=None, **settings):
    """What a penalty is told of `module` and a dataset of tensors."""
    data = data or pool()
    return Start(
        module,
        Look(module, Readout()),
        None,
        len(data),
        lambda indices: (list(data[list(index)]) for index in indices),
        **settings,
    )


def begun(penalty, module, data=None, **settings):
    """The penalty, set up."""
    penalty.attach(module)
    penalty.setup(start_of(module, data, **settings))
    return penalty


class Still(Toy):
    """Its data say nothing; plain gradient descent follows the penalty alone."""

    def training_step(self, batch, batch_idx):
        outputs = super().training_step(batch, batch_idx)
        return self.outputs(outputs["loss"] * 0, outputs["logits"])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.lr)


class Knock(Callback):
    """Moves the weights once, right after `fit` has started with the base model's."""

    def on_train_start(self, trainer, pl_module):
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in pl_module.parameters():
                if parameter.requires_grad:
                    parameter += torch.randn(parameter.shape, generator=generator).to(parameter)


def knocks(module):
    """By how much `Knock` moves each parameter."""
    generator = torch.Generator().manual_seed(5)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {name: torch.randn(p.shape, generator=generator) for name, p in trained.items()}


def fit(module, *penalties, callbacks=(), ckpt_path=None, save=None, **settings):
    callback = RehearsalCallback(NoRehearsal(), pool=pool(), penalties=penalties)
    run = trainer(callback, *callbacks, **settings)
    run.fit(module, DataLoader(finetune(), 8), ckpt_path=ckpt_path)
    if save is not None:
        run.save_checkpoint(save)
    return callback
