"""Configurations as Hydra hands them to the app, in this process."""

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from lightning_mixcd.app.conf import conf_dir

QUICK = ["trainer=cpu", "trainer.enable_progress_bar=false"]


def composed(folder, *overrides):
    """The configuration of a run in a folder; base models are beside it."""
    given = [*QUICK, f"base_dir={folder.parent}/base", f"hydra.runtime.output_dir={folder}", *overrides]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", given, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    config = config.copy()
    with open_dict(config):
        del config["hydra"]
    return config
