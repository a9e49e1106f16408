"""Folders of a sweep are named after all that it runs over."""

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from typing_extensions import override

__all__ = ["NameSwept"]


class NameSwept(Callback):
    """Names what is left out of folders' names, such as `experiment`, where a sweep runs over several of it.

    Else two of its runs would have one folder. Hydra calls it; see `conf/train.yaml`.
    """

    @override
    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        hydra = config.hydra
        given = [f"{name}={value}" for name, value in (hydra.sweeper.get("params") or {}).items()]
        last = {
            parsed.key_or_group: parsed
            for parsed in OverridesParser.create().parse_overrides([*given, *hydra.overrides.task])
        }
        swept = {name for name, parsed in last.items() if parsed.is_sweep_override()}
        excluded = hydra.job.config.override_dirname.exclude_keys
        left = [name for name in excluded if name not in swept]
        if left != excluded:
            # Each run of the sweep is composed anew, with these.
            keys = ",".join(left)
            hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{keys}]")
