"""`mixcd-record`: make the base model and its ledger, as configured."""

import hydra
from omegaconf import DictConfig

from lightning_mixcd.app.conf import conf_dir, hush, refuse_hidden
from lightning_mixcd.app.methods import offer_methods

__all__ = ["main"]

offer_methods()


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")
def main(config: DictConfig) -> None:
    """Train the base model and record its ledger, or say where they are already.

    Args:
        config: The app's configuration; `data`, `model`, `base` and `seed` decide what is made, for a chain
            the first of its `stages` in place of `data`.
    """
    refuse_hidden()
    # These take seconds to import, and Hydra tells a typo in the arguments before.
    from lightning.pytorch.utilities import rank_zero_only
    from rich.console import Console

    from lightning_mixcd.app.base import base_model
    from lightning_mixcd.app.chain import chain_base
    from lightning_mixcd.app.run import check_options, configured_pairing
    from lightning_mixcd.ledger import Ledger

    hush()
    check_options(config)
    chain = config.get("stages")
    path = chain_base(config) if chain else base_model(config, configured_pairing(config))[1]
    ledger = Ledger.open(path)
    share = float(ledger.correct.mean())
    rank_zero_only(Console(soft_wrap=True).print)(
        f"{path}: {ledger.size} samples, {share:.1%} correct, columns {ledger.columns}"
    )
