"""How runs were configured, and in what they differ."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_mixcd.report.sweep import Group, Sweep

__all__ = ["Configs", "read_configs"]

Flat = dict[str, Any]  # values by their names with dots
OWN = ("seed", "ckpt_path")  # what runs of one method may differ in
PAIRED = ("data.", "model.", "base.")  # what runs must share to be pairs
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Configs(NamedTuple):
    """Configurations of the methods of a sweep.

    Args:
        shared: What all have in common, as YAML.
        own: In what each differs, as YAML; its first run's.
        notes: What a reader has to know: runs that are configured differently from others of their method,
            and methods that are no pairs.
    """

    shared: str
    own: dict[Group, str]
    notes: list[str]


def read_configs(sweep: Sweep) -> Configs:
    """Read what Hydra wrote down of each run.

    Args:
        sweep: The runs; one without a readable configuration is passed over.

    Returns:
        The configurations.

    Raises:
        ValueError: If runs are of one data configuration with different values, and so of different tasks.
    """
    read = {group: [flat for flat in map(_read, runs) if flat] for group, runs in sweep.groups.items()}
    read = {group: found for group, found in read.items() if found}
    unpaired = [
        name
        for name in _differing([flat for found in read.values() for flat in found])
        if name.startswith(PAIRED)
    ]
    if data := [name for name in unpaired if name.startswith("data.")]:
        raise ValueError(
            f"Runs of different tasks cannot be compared: they differ in {', '.join(data)}. Report on each "
            "by itself."
        )
    _check_data(sweep)
    notes = [
        f"Runs of {sweep.label(group)} differ in {', '.join(inside)}."
        for group, found in read.items()
        if (inside := _differing(found))
    ]
    if unpaired:
        notes.append(
            f"Methods have different base models, so that seeds are no pairs: {', '.join(unpaired)}."
        )
    first = {group: found[0] for group, found in read.items()}
    differing, some = _differing([*first.values()]), next(iter(first.values()), {})
    shared = {name: value for name, value in some.items() if name not in differing and name not in OWN}
    own = {
        group: _yaml({name: flat[name] for name in differing if name in flat})
        for group, flat in first.items()
    }
    return Configs(_yaml(shared), own, notes)


# Options may come from elsewhere, as by `${data_dir}`: the files that Hydra wrote are the same then.
def _check_data(sweep: Sweep) -> None:
    known = {record.data_hash: run for run, record in sweep.records.items() if record.data_hash is not None}
    if len(known) > 1:
        runs = " and ".join(map(str, sorted(known.values())[:2]))
        raise ValueError(
            "Runs of different tasks cannot be compared: their options below `data` are written alike but "
            f"came to different values, as from `data_dir` or the environment, in {runs}. Report on each by "
            "itself."
        )


def _read(run: Path) -> Flat | None:
    try:
        # `safe_load` with the parser in C, ten times as fast, where there is one.
        config = SAFE_LOADER((run / ".hydra" / "config.yaml").read_text(encoding="utf-8")).get_single_data()
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return _flat(config) if isinstance(config, Mapping) else None


def _flat(config: Mapping[Any, Any], prefix: str = "") -> Flat:
    found: Flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _differing(configs: list[Flat]) -> list[str]:
    names = sorted({name for flat in configs for name in flat} - {*OWN})
    missing = object()
    return [
        name
        for name in names
        if any(flat.get(name, missing) != configs[0].get(name, missing) for flat in configs)
    ]


def _yaml(values: Flat) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else ""
