"""`mixcd-train`: finetune with rehearsal, as configured."""

import hydra
from omegaconf import DictConfig

from lightning_mixcd.app.conf import conf_dir, refuse_hidden
from lightning_mixcd.app.methods import offer_methods

__all__ = ["main"]

offer_methods()


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")
def main(config: DictConfig) -> float:
    """Run `train`, or a chain of stages; a sweeper may maximise the mean accuracy over all tasks.

    Args:
        config: The app's configuration.

    Returns:
        Mean accuracy over prior and new task, or over those of the chain, at the end.
    """
    refuse_hidden()
    # These take seconds to import, and Hydra tells a typo in the arguments before.
    from lightning_mixcd.app.chain import run_chain
    from lightning_mixcd.app.finetune import train

    if config.get("stages"):
        return run_chain(config).scores["final"]
    record = train(config)
    return (record.prior_accuracy + record.new_accuracy) / 2
