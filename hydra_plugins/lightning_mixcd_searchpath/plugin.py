"""Offers the configuration groups of lightning_mixcd to every Hydra app, below `mixcd/`.

Hydra imports this module when any app starts, so it imports nothing heavy and only reads small files. A
search path would offer our `data`, `model` and `trainer` too; stored one by one, only what is meant to be
shared is.
"""

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

SHARED = {
    "strategy": "mixcd/strategy",
    "partition": "mixcd/partition",
    "estimator": "mixcd/estimator",
    "schedule": "mixcd/schedule",
    "penalty": "mixcd/penalty",
    "callbacks": "callbacks",
}


def configurations() -> Path | None:
    """Return the folder of the configurations without importing the package; None if there is none."""
    spec = find_spec("lightning_mixcd")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    candidates = (package / "conf", package.parent / "conf")
    return next((folder for folder in candidates if (folder / "strategy").is_dir()), None)


class LightningMixcdSearchPath(SearchPathPlugin):
    """Stores the shared groups when Hydra asks for search paths, which it does before it composes."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:  # noqa: ARG002 -- Hydra's contract
        """Store the groups; a user's own file of the same name comes first.

        Args:
            search_path: Not changed.
        """
        folder = configurations()
        if folder is None:
            return
        store = ConfigStore.instance()
        for group, name in SHARED.items():
            for file in sorted((folder / group).glob("*.yaml")):
                store.store(group=name, name=file.stem, node=OmegaConf.load(file), provider="lightning_mixcd")
