"""`mixcd-record`: make the base model and its ledger, as configured."""

import hydra
from omegaconf import DictConfig

from lightning_mixcd.app.conf import conf_dir, hush

__all__ = ["main"]


@hydra.main(version_base="1.3", config_path=conf_dir(), config_name="train")
def main(config: DictConfig) -> None:
    """Train the base model and record its ledger, or say where they are already.

    Args:
        config: The app's configuration; `data`, `model`, `base` and `seed` decide what is made.
    """
    # These take seconds to import, and Hydra tells a typo in the arguments before.
    from lightning.pytorch.utilities import rank_zero_only
    from rich.console import Console

    from lightning_mixcd.app.base import base_model
    from lightning_mixcd.app.run import configured_pairing
    from lightning_mixcd.ledger import Ledger

    hush()
    _, path = base_model(config, configured_pairing(config))
    ledger = Ledger.open(path)
    share = float(ledger.correct.mean())
    rank_zero_only(Console(soft_wrap=True).print)(
        f"{path}: {ledger.size} samples, {share:.1%} correct, columns {ledger.columns}"
    )
