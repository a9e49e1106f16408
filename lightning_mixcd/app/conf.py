"""Where the configurations are, and how objects are made of them."""

import logging
import warnings
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

__all__ = ["conf_dir", "hush", "make", "refuse_hidden"]


def conf_dir() -> str:
    """Return the folder of the configurations: inside an installed package, else of the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return str(inside if inside.is_dir() else package.parent / "conf")


def refuse_hidden() -> None:
    """Refuse configurations of the user's that Hydra does not read, because ours have their names.

    Raises:
        ValueError: If there is one that says something else than ours.
    """
    ours = Path(conf_dir())
    theirs = [
        Path(source.path) for source in HydraConfig.get().runtime.config_sources if source.schema == "file"
    ]
    for path in sorted(ours.rglob("*.yaml")):
        for folder in theirs:
            file = folder / path.relative_to(ours)
            if file.is_file() and file.read_bytes() != path.read_bytes():
                raise ValueError(
                    f"Configurations of yours must have names of their own, got {file}, in whose place Hydra "
                    "reads ours. Rename it, and choose it by that name."
                )


def hush() -> None:
    """Keep Lightning's advertisements, once per run of a sweep, from burying the progress bars."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.13; nothing a user could do about it.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # A chain goes on from there.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")


def make(config: DictConfig, **given: object) -> Any:  # noqa: ANN401 -- as the configuration says
    """Make the object that a configuration describes, of plain Python values only.

    Args:
        config: A node with a `_target_`.
        **given: Arguments that no configuration can hold.

    Returns:
        The object.
    """
    return instantiate(config, _convert_="all", **given)
