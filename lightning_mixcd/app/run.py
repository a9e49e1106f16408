"""What every run of the app is made of."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from torch.utils.data import Dataset, Subset

from lightning_mixcd.app.conf import conf_dir, make
from lightning_mixcd.app.true_rates import TrueRates
from lightning_mixcd.callback import RehearsalCallback
from lightning_mixcd.capture import Readout
from lightning_mixcd.data.pool import Pool, as_pool
from lightning_mixcd.data.ration import Ration
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.errors import check_counts, check_whole
from lightning_mixcd.kept import KEPT, check_keep
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.ledger_source import RECORDED_HERE
from lightning_mixcd.penalties.base import Penalty
from lightning_mixcd.record import column_values
from lightning_mixcd.resume import ExactResume
from lightning_mixcd.strategies import MixCD, Oracle, Strategy
from lightning_mixcd.tasks import Pairing

__all__ = [
    "callbacks",
    "check_columns",
    "check_options",
    "configured_pairing",
    "configured_pool",
    "configured_trainer",
    "method_name",
    "quiet_trainer",
    "separate_processes",
    "wise_ft_folder",
]


def check_options(config: DictConfig) -> None:
    """Refuse what would only fail behind the training of the base model, or at the very end.

    Args:
        config: The app's configuration.

    Raises:
        TypeError: If `wise_ft` is no list of numbers, `base.keep` no list, or `true_rates_every` no whole
            number.
        ValueError: If `mix_ratio`, `wise_ft`, `true_rates_every` or the trainer's `limit_val_batches` is out
            of range, `base` has a key that says nothing or `base.keep` what no forward shows, the trainer has
            a logger of its own, every run of a sweep would start processes of its own, or the run's folder
            would be elsewhere than its name says.
    """
    Ration(config.mix_ratio)
    _check_wise_ft(config.wise_ft)
    _check_folder()
    _check_base(config.base)
    if config.true_rates_every is not None:
        check_counts("Leave it out to log none.", true_rates_every=config.true_rates_every)
    if config.trainer.get("limit_val_batches") == 0:
        raise ValueError(
            "`trainer.limit_val_batches` must not be 0, since a run is measured at its end. Take "
            f"+trainer.check_val_every_n_epoch={config.trainer.get('max_epochs') or 1000} to validate at the "
            "end alone."
        )
    if "logger" in config.trainer:
        raise ValueError(
            f"`trainer.logger` must be left out, got {config.trainer.logger}: the report reads what the "
            "group `logger` writes. Choose from that, for example logger=tensorboard."
        )
    if HydraConfig.get().mode == RunMode.MULTIRUN and _starts_processes(quiet_trainer(config)):
        raise ValueError(
            "`trainer.strategy` must be ddp_spawn or ddp_fork in a sweep over several devices, got "
            f"{config.trainer.get('strategy', 'auto')}: Lightning would start the whole sweep again for each "
            "device. Or leave it to Slurm to start processes: hydra/launcher=slurm."
        )


def check_columns(config: DictConfig, rehearsal: RehearsalCallback, columns: Iterable[str]) -> None:
    """Refuse what the ledger will lack, before the base model is trained and recorded.

    Args:
        config: The app's configuration.
        rehearsal: Whose strategy and penalties need columns.
        columns: What the data know of each pool sample.

    Raises:
        ValueError: If they need another column.
    """
    recorded = {*RECORDED_HERE - KEPT, *config.base.keep, *columns}
    there = {*Ledger.open(config.ledger, verify=False).columns} if config.ledger else recorded
    users: tuple[Strategy | Penalty, ...] = (rehearsal.strategy, *rehearsal.penalties)
    for user in users:
        if missing := [name for name in user.needs_columns if name not in there]:
            where, remedy = "data", "Choose data that have them, or a `ledger`"
            if config.ledger:
                where, remedy = "ledger", "Give one that has them"
            elif KEPT.issuperset(missing):
                where, remedy = "base.keep", f"Take base.keep=[{','.join([*config.base.keep, *missing])}]"
            raise ValueError(
                f"`{where}` must have the columns that {type(user).__name__} needs, but lacks {missing}. "
                f"{remedy}, or choose another strategy, partition or penalty."
            )


def wise_ft_folder(alpha: float) -> str:
    """Return the name of the folder of a point between base and finetuned weights.

    Args:
        alpha: The point.

    Returns:
        The name.
    """
    return f"wise_ft_{alpha:g}"


def _check_wise_ft(points: Any) -> None:  # noqa: ANN401 -- refuses what is no list
    known = isinstance(points, ListConfig)
    if not known or any(isinstance(alpha, bool) or not isinstance(alpha, int | float) for alpha in points):
        raise TypeError(
            f"`wise_ft` must be a list of numbers, got {points!r}. Take for example wise_ft=[0.5]."
        )
    if outside := [alpha for alpha in points if not 0 <= alpha <= 1]:
        raise ValueError(
            f"`wise_ft` must be points in [0, 1], from the base to the finetuned model, got {outside}. Take "
            "for example wise_ft=[0,0.5]."
        )
    folders = Counter(map(wise_ft_folder, points))
    if same := [name for name, n in folders.items() if n > 1]:
        raise ValueError(
            f"`wise_ft` must be points that differ in six digits, got {points} with several for {same}. "
            "Leave all but one of these out."
        )


# With a plus Hydra takes any.
def _check_base(base: DictConfig) -> None:
    known = [*OmegaConf.load(Path(conf_dir(), "train.yaml")).base]
    if unknown := [key for key in base if key not in known]:
        raise ValueError(
            f"`base` must have no keys but {known}, got {unknown}. Leave these out: all else is as for "
            "finetuning, by `model` and `trainer`."
        )
    if not isinstance(base.keep, ListConfig | DictConfig):
        raise TypeError(f"`base.keep` must be a list, got {base.keep!r}. Take base.keep=[{base.keep or ''}].")
    check_keep(base.keep)


# `..` in the value of an override is one in the path that is named after it.
def _check_folder() -> None:
    hydra = HydraConfig.get()
    swept, name = hydra.mode == RunMode.MULTIRUN, hydra.job.override_dirname
    if ".." in Path(name).parts and name in (hydra.sweep.subdir if swept else hydra.run.dir):
        raise ValueError(
            f"`hydra.{'sweep.subdir' if swept else 'run.dir'}` must be without `..`, got {name}, by which "
            f"the run's folder is {hydra.runtime.output_dir}. Give paths in options as absolute ones."
        )


def method_name(config: DictConfig) -> str:
    """Return what the report calls the method of a run.

    Args:
        config: The app's configuration.

    Returns:
        `name`; without one strategy, penalties, weights, adapter and `wise_ft`, with "+" between.

    Raises:
        ValueError: If a `method` was chosen and something else in its place.
    """
    if config.name:
        return str(config.name)
    choices = HydraConfig.get().runtime.choices
    parts = [choices["strategy"], *config.penalty, *config.weights, *config.adapter]
    parts += ["wise_ft"] if config.wise_ft else []
    name, method = "+".join(parts), choices.get("method")
    if method is not None and not {*method.split("+")} <= {*parts}:
        raise ValueError(
            f"`method` must be what it says, got {method} with other options that make it {name}. Choose the "
            "strategy by `method` too, as in method=mixcd, or give this combination a `name`."
        )
    return name


def callbacks(config: DictConfig) -> tuple[RehearsalCallback, list[Callback]]:
    """Make the callbacks of one `fit`.

    Args:
        config: The app's configuration.

    Returns:
        The one that rehearses, and all others.
    """
    strategy = make(config.strategy)
    rehearsal = RehearsalCallback(
        strategy,
        schedule=make(config.schedule),
        penalties=make(config.penalty),
        readout=Readout(embedding=config.base.embedding),
        rehearsal_weight=config.rehearsal_weight,
        max_compute_units=config.max_compute_units,
        seed=config.seed,
    )
    # An oracle is a mark to measure against, not a method; what it looks at would use up any budget.
    rehearsal.looks_are_free = isinstance(strategy, Oracle)
    # An average of the weights is one of the adapted module.
    others: list[Callback] = [*make(config.adapter).values(), *make(config.weights).values(), ExactResume()]
    own = make(config.trainer.get("callbacks")) or []
    own = [*own.values()] if isinstance(own, dict) else own if isinstance(own, list) else [own]
    others += [callback for callback in own if callback is not None]
    if config.true_rates_every and isinstance(strategy, MixCD):
        others.append(TrueRates(rehearsal, config.true_rates_every))
    if config.trainer.enable_progress_bar:
        others.append(TQDMProgressBar(leave=False))
    return rehearsal, others


def configured_pairing(config: DictConfig) -> Pairing:
    """Make the tasks of a run, whose pool is as configured.

    Args:
        config: The app's configuration.

    Returns:
        The tasks.

    Raises:
        TypeError: If `pool_size` is no whole number.
        ValueError: If the pool cannot have `pool_size` samples, or a column is of other samples.
    """
    pairing: Pairing = make(config.data)
    pool, columns = configured_pool(config, pairing.pool, pairing.columns)
    return replace(pairing, pool=pool, columns=columns)


def configured_pool(
    config: DictConfig, samples: Pool | Dataset[Any], columns: Mapping[str, npt.NDArray[Any]]
) -> tuple[Pool, Mapping[str, npt.NDArray[Any]]]:
    """Return a pool that is as large, and read, as configured.

    Args:
        config: The app's configuration.
        samples: The pool, or its samples.
        columns: What is known of its samples, `(N,)` each.

    Returns:
        The pool, and what is known of those samples that are left.

    Raises:
        TypeError: If `pool_size` is no whole number.
        ValueError: If the pool cannot have `pool_size` samples, or a column is of other samples.
    """
    pool = as_pool(samples)
    pool = replace(pool, num_workers=config.num_workers, lag=config.lag, batch_size=config.pool_batch_size)
    if config.pool_size is None:
        return pool, columns
    check_whole(pool_size=config.pool_size)
    if isinstance(pool.dataset, Streams) or not 1 <= config.pool_size <= len(pool):
        what = "streams" if isinstance(pool.dataset, Streams) else f"{len(pool)} samples"
        raise ValueError(
            f"`pool_size` must be a number of the pool's samples, got {config.pool_size} of {what}. Leave it "
            "out for all."
        )
    chosen = np.random.default_rng(config.seed).choice(len(pool), config.pool_size, replace=False)
    chosen.sort()
    part = replace(pool, dataset=Subset(pool.dataset, chosen.tolist()))
    return part, {name: column_values(name, values, len(pool))[chosen] for name, values in columns.items()}


def separate_processes(trainer: Trainer) -> bool:
    """Say whether a trainer works in processes that run the whole command each.

    Args:
        trainer: The trainer.

    Returns:
        Whether there are such, as Lightning starts for `ddp`, or torchrun or Slurm did; those of `ddp_spawn`
        and `ddp_fork` come and go with `fit`.
    """
    return trainer.world_size > 1 and not isinstance(trainer.strategy.launcher, _MultiProcessingLauncher)


def _starts_processes(trainer: Trainer) -> bool:
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    return separate_processes(trainer) and not environment.creates_processes_externally


def configured_trainer(config: DictConfig, **given: object) -> Trainer:
    """Make a trainer.

    Args:
        config: The app's configuration.
        **given: Arguments that it does not hold, `callbacks` among them.

    Returns:
        The trainer.
    """
    config = config.copy()
    with open_dict(config):
        config.trainer.pop("callbacks", None)  # Hydra could not put a list in the place of a mapping
    trainer: Trainer = make(config.trainer, **given)
    return trainer


def quiet_trainer(config: DictConfig) -> Trainer:
    """Make a trainer that measures, and leaves nothing behind.

    Args:
        config: The app's configuration.

    Returns:
        The trainer.
    """
    return configured_trainer(config, logger=False, enable_checkpointing=False, enable_progress_bar=False)
