"""Every strategy, penalty and weight-space method as an option of one group, which a sweep can run over."""

from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore

from lightning_mixcd.app.conf import conf_dir

__all__ = ["methods", "offer_methods"]

WITHOUT_REHEARSAL = ("ewc", "flow", "kfac", "l2sp", "lwf", "mas")  # penalties that need no rehearsed rows
WISE_FT = [0, 0.25, 0.5, 0.75]


def methods() -> dict[str, dict[str, Any]]:
    """Say what each method is made of: the option of a group, or two of them.

    Returns:
        By name, as the report has it, a configuration: every strategy; every penalty and every weight-space
        method with uniform rehearsal; and by themselves those that need no rehearsal.
    """
    found = {name: _of(strategy=name) for name in _options("strategy")}
    for group in ("penalty", "weights"):
        beside = {name for name in _options(group) if name != "none"}
        found |= {f"uniform+{name}": _of(strategy="uniform", **{group: name}) for name in beside}
    found |= {f"none+{name}": _of(strategy="none", penalty=name) for name in WITHOUT_REHEARSAL}
    found["none+wise_ft"] = {**_of(strategy="none"), "wise_ft": WISE_FT}
    return found


def offer_methods() -> None:
    """Let Hydra find the methods as options of the group `method`."""
    store = ConfigStore.instance()
    store.repo.setdefault("method", _Shared())
    for name, node in methods().items():
        store.store(name, node, group="method", package="_global_")


# Hydra copies the whole store some 160 times for one `--help`, and what it loads from it once more.
class _Shared(dict[str, Any]):
    def __deepcopy__(self, memo: object) -> "_Shared":
        return self


def _options(group: str) -> list[str]:
    return [path.stem for path in Path(conf_dir(), group).glob("*.yaml")]


def _of(**choices: str) -> dict[str, Any]:
    return {"defaults": [{f"override /{group}": option} for group, option in choices.items()]}
