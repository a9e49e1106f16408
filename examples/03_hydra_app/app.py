"""A Hydra app of your own that composes the groups of lightning_mixcd beside its own.

The groups `mixcd/strategy`, `mixcd/partition` and `mixcd/estimator` come from the installed package, through
a Hydra plug-in. `conf/` beside this file is the app's own; it adds one strategy to `mixcd/strategy`. From any
folder:

    python app.py
    python app.py mixcd/strategy=mixcd mixcd/partition=label
    python app.py -m mixcd/strategy=none,uniform,mixcd,hard_first
"""

import logging

import hydra
from hydra.utils import instantiate
from lightning.pytorch import LightningModule, Trainer, seed_everything
from omegaconf import DictConfig

from lightning_mixcd import RehearsalDataModule
from lightning_mixcd.tasks import digits_pairing

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no greeting from every Trainer


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Train a base model, then finetune it as configured."""
    seed_everything(config.seed, verbose=False)
    digits = digits_pairing(seed=config.seed)
    model: LightningModule = instantiate(config.model)
    Trainer(max_epochs=config.pretrain_epochs, **config.trainer).fit(model, datamodule=digits.prior)

    data = RehearsalDataModule(
        digits.new,
        digits.pool,
        mix_ratio=config.mix_ratio,
        ledger=f"{hydra.core.hydra_config.HydraConfig.get().runtime.output_dir}/base.ledger",
        prior_val=digits.prior_val,
    )
    # Plain Python values for the constructors: `_convert_` keeps OmegaConf's own types out of checkpoints.
    callbacks = [instantiate(callback, _convert_="all") for callback in config.callbacks.values()]
    trainer = Trainer(max_epochs=config.finetune_epochs, callbacks=callbacks, **config.trainer)
    trainer.fit(model, datamodule=data)

    measured = {name: f"{float(value):.1%}" for name, value in trainer.callback_metrics.items()}
    name = type(callbacks[0].strategy).__name__
    print(f"{name}: prior task {measured['val/prior/accuracy']}, new task {measured['val/new/accuracy']}")


if __name__ == "__main__":
    main()
