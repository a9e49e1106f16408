"""The callback: rehearses while somebody else's model is finetuned."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer
from typing_extensions import override

from lightning_mixcd.capture import Readout
from lightning_mixcd.data.datamodule import RehearsalDataModule
from lightning_mixcd.data.pool import Pool, as_pool
from lightning_mixcd.data.ration import Ration
from lightning_mixcd.data.vocabularies import check_alike
from lightning_mixcd.errors import check_range, check_whole
from lightning_mixcd.functional.joining import n_rows
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.penalties.base import Penalty
from lightning_mixcd.schedules import AdaptiveSchedule, EveryNSteps, Schedule
from lightning_mixcd.session import Session
from lightning_mixcd.settings import Settings
from lightning_mixcd.spending import ALL, TRAINED, Spending
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.types import AnyDataset
from lightning_mixcd.wiring import rehearsal_step

__all__ = ["RehearsalCallback"]


class RehearsalCallback(Callback):
    """Rehearses pool samples beside every finetune batch and learns from them which to rehearse next.

    The module is used as it is: its `training_step` sees one ordinary batch, of the structure it knows, with
    the pool rows after the finetune rows. Which of the pool rows it got right is read from what that step
    returned. Validation, test and predict are not touched, nor is any random state, gradient or module mode.

    Where pool rows cannot share a batch with finetune rows, the module may have a `rehearsal_step` with the
    arguments and results of `training_step`. It then gets the pool rows alone, within the same step; the two
    losses are put together such that each row weighs alike.

    Args:
        strategy: Which samples are rehearsed.
        pool: The samples that may be rehearsed; or give them to a `RehearsalDataModule`.
        ledger: The base model's record of the pool, or its folder. If there is none in the folder yet, it is
            recorded at the start of `fit`, with the module as it is then. Strategies that know no base
            model do without.
        mix_ratio: Rehearsed samples per finetune sample, in (0, 16]; 0.25 if None. Fractions of a row are
            carried over to later steps. Texts packed into one row count as one sample.
        schedule: At which optimizer steps to rehearse; every step by default.
        readout: Where correctness is to be found in what `training_step` returns; see `Readout`.
        penalties: What else holds on to what the base model knew; each acts beside the others.
        rehearsal_weight: Weight of a rehearsed row in the loss, 0 or more, beside 1 for a finetune row; the
            module's loss is taken for the mean over the rows of its batch.
        max_compute_units: `fit` ends with the step that reaches so many `compute_units`, at least 1, or
            within half a lag of it where there are several processes; None for no end.
        seed: Seed of all draws.

    Attributes:
        exhausted: Whether `fit` was ended because `max_compute_units` were reached.
        looks_are_free: Whether `max_compute_units` holds for training alone, as for an oracle that is to make
            the steps that uniform rehearsal can afford; False at first.

    Raises:
        TypeError: If an argument is of another kind.
        ValueError: If a number is out of range, or strategy or schedule go by what a penalty keeps from them.
            At the start of `fit`, if there is no pool, or two; if the strategy or a penalty needs a ledger
            and there is none; if pool and finetune data are read by different tokenizers.
        LedgerError: At the start of `fit`, if the ledger is of another pool or base model.
        CaptureError: At the first step or before, if correctness or losses are needed and cannot be read: for
            a ledger, a strategy that learns or looks at candidates, a `rehearsal_weight` other than 1, or a
            penalty that reads answers.

    Example:
        >>> from lightning_mixcd import MixCD, RehearsalCallback
        >>> callback = RehearsalCallback(MixCD(), pool=range(1000), ledger="base.ledger", mix_ratio=0.25)
    """

    def __init__(  # noqa: PLR0913 -- each an axis of its own
        self,
        strategy: Strategy,
        *,
        pool: Pool | AnyDataset | None = None,
        ledger: Ledger | str | Path | None = None,
        mix_ratio: float | None = None,
        schedule: Schedule | None = None,
        readout: Readout | None = None,
        penalties: Sequence[Penalty] | Mapping[str, Penalty] = (),
        rehearsal_weight: float = 1.0,
        max_compute_units: int | None = None,
        seed: int = 0,
    ) -> None:
        _check_parts(strategy, schedule, readout)
        _check_numbers(mix_ratio, rehearsal_weight, max_compute_units, seed)
        self.strategy, self.penalties = strategy, _listed(penalties)
        self.rehearsal_weight, self.max_compute_units = rehearsal_weight, max_compute_units
        self.exhausted = self._spent = self.looks_are_free = False
        self.pool = None if pool is None else as_pool(pool)
        self.ledger, self.mix_ratio = ledger, mix_ratio
        self.schedule = schedule or EveryNSteps(1)
        _check_together(strategy, self.penalties, self.schedule)
        self.readout = readout or Readout()
        self.seed = seed
        self._spending: Spending | None = None
        self._backwards = 0  # made in the batch that is being trained
        self._rows = 0  # of that batch
        self._session: Session | None = None
        self._resumed: dict[str, Any] | None = None  # state that waits for the session to begin
        self._live = False  # between `setup` and the end of `fit`
        self._together = True  # whether all processes still run the same steps

    @property
    def compute_units(self) -> int:
        """Sample-forwards + 2 x sample-backwards of all processes, ledger pass included.

        While `fit` runs, the batches of other processes are taken to be as large as those of this one.
        """
        return 0 if self._spending is None else self._spending.guess(ALL)

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._end()
            self._session = self._resumed = None
            self._session = Session(self._settings(trainer), trainer, pl_module)
            self._live, self._together = True, True
            self.exhausted = self._spent = False

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._session is not None  # noqa: S101 -- made by `setup`
        self._session.begin(resumed=self._resumed is not None)
        # A ledger that only serves to log damage is not the strategy's cost.
        users: tuple[Strategy | Penalty, ...] = (self.strategy, *self.penalties)
        needed = any(user.needs_ledger or user.needs_columns for user in users)
        ledger = self._session.ledger if needed else None
        self._spending = Spending(self._session.ranks, ledger=0 if ledger is None else ledger.forwards)
        self._backwards = 0
        if self._resumed is not None:
            self.load_state_dict(self._resumed)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._session is not None  # noqa: S101 -- made by `setup`
        # With a step of its own the pool may have inputs of its own.
        if rehearsal_step(pl_module) is None:
            check_alike("finetune data", trainer.train_dataloader, "pool", self._session.pool)
        self._session.start()  # a run that goes on in the middle of an epoch has no `on_train_epoch_start`
        if self._resumed is not None and self._spent and self._all_spent():
            self.exhausted = trainer.should_stop = True

    @override
    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._session is not None  # noqa: S101 -- made by `setup`
        self._session.start()

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._session is not None  # noqa: S101 -- made by `setup`
        self._session.stop()

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._rows = n_rows(batch)  # the step may change its batch

    @override
    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._backwards += 1

    @override
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        if self._session is not None and self.penalties:
            self._session.terms.change_gradients(optimizer)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        session, spending = self._session, self._spending
        if session is None or spending is None or not session.begun:
            return
        rows = session.observe(outputs, batch, rows=0 if batch is None else self._rows)
        spending.add(trained=self._trained(pl_module, rows), extra=session.extra_units)
        self._end_if_exhausted(trainer, session)
        if _logs_now(trainer, pl_module):
            found = {"compute_units": 1.0 * spending.total(ALL), **session.report()}
            if not trainer.loggers:
                # Lightning takes some 0.4 ms for each value, and nobody would see those of single bins.
                found = {name: value for name, value in found.items() if "/" not in name}
            pl_module.log_dict({f"rehearsal/{name}": value for name, value in found.items()})

    def _trained(self, pl_module: LightningModule, rows: int) -> int:
        # With manual optimization a backward may be made without Lightning's knowledge, or of some rows only.
        # Otherwise an optimizer may ask for several passes, as LBFGS does; a skipped batch has no backward.
        backwards = self._backwards if pl_module.automatic_optimization else 1
        self._backwards = 0
        return rows * (max(1, backwards) + 2 * backwards)

    def _end_if_exhausted(self, trainer: Trainer, session: Session) -> None:
        if self.max_compute_units is None:
            return
        if session.lesson or session.ranks.size == 1:  # all processes must end with the same step
            self._spent = self._all_spent()
        if self._spent and session.stepped:
            self.exhausted = trainer.should_stop = True

    def _all_spent(self) -> bool:
        if self.max_compute_units is None or self._spending is None:
            return False
        kind = TRAINED if self.looks_are_free else ALL
        return int(self._spending.total(kind)) >= self.max_compute_units

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._spending is not None  # noqa: S101 -- made by `on_fit_start`
        self._spending.settle()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Lightning does not call `teardown` after an exception; other processes may not have had one.
        self._together = False
        self._end()

    # In a copy, or from a pickle, as before a `fit`; the session knows trainer and module.
    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_session": None, "_resumed": None, "_live": False}

    def _end(self) -> None:
        # The session is kept: a checkpoint may still be saved.
        if self._session is not None and self._live:
            self._session.end()
        self._live = False

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._session is None or self._spending is None or not self._session.begun:
            return {}
        return {
            "version": 1,
            "spent": self._spent,
            **self._spending.state_dict(together=self._together),
            **self._session.state_dict(together=self._together),
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._live or self._session is None:
            return  # validation, test and predict restore callbacks too
        if not self._session.begun or self._spending is None:
            self._resumed = state_dict  # until `on_fit_start`
            return
        self._spending.load_state_dict(state_dict, extra=self._session.extra_units)
        self._spent = state_dict.get("spent", True) or self._session.ranks.size == 1
        self._session.load_state_dict(state_dict)

    # Pool, ledger and mix ratio come from the callback or from the datamodule, never half from each.
    def _settings(self, trainer: Trainer) -> Settings:
        pool, ledger, mix_ratio = self.pool, self.ledger, self.mix_ratio
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, RehearsalDataModule):
            if (pool, ledger, mix_ratio) != (None, None, None):
                raise ValueError(
                    "`pool`, `ledger` and `mix_ratio` must be given once, got them for `RehearsalCallback` "
                    "beside a `RehearsalDataModule`. Leave them out of the callback."
                )
            pool, ledger, mix_ratio = data.pool, data.ledger, data.mix_ratio
            data.in_use = True
        if pool is None:
            raise ValueError(
                "`pool` must be given, got none. Pass RehearsalCallback(strategy, pool=dataset), or fit with "
                "a `RehearsalDataModule`."
            )
        mix_ratio = 0.25 if mix_ratio is None else mix_ratio
        return Settings(
            self.strategy,
            pool,
            ledger,
            mix_ratio,
            self.schedule,
            self.readout,
            self.seed,
            self.penalties,
            self.rehearsal_weight,
        )


def _check_parts(strategy: object, schedule: object, readout: object) -> None:
    if not isinstance(strategy, Strategy):
        raise TypeError(
            f"`strategy` must be an instance of `Strategy`, got {strategy!r}. Pass for example MixCD()."
        )
    if schedule is not None and not callable(schedule):
        raise TypeError(
            f"`schedule` must be a function of the step, got {schedule!r}. Pass for example EveryNSteps(5)."
        )
    if readout is not None and not isinstance(readout, Readout):
        raise TypeError(
            f"`readout` must be a `Readout`, got {readout!r}. Pass for example Readout(module='head')."
        )


def _check_numbers(
    mix_ratio: float | None, rehearsal_weight: float, max_compute_units: int | None, seed: int
) -> None:
    check_whole(seed=seed)
    if mix_ratio is not None:
        Ration(mix_ratio)  # refuses what is out of range
    check_range("[0, inf)", "The default is 1.", rehearsal_weight=rehearsal_weight)
    if max_compute_units is not None:
        check_range("[1, inf]", "None means no end.", max_compute_units=max_compute_units)


def _listed(penalties: Sequence[Penalty] | Mapping[str, Penalty]) -> tuple[Penalty, ...]:
    if not isinstance(penalties, Iterable):
        raise TypeError(f"`penalties` must be a list, got {penalties!r}. Pass for example [L2SP()].")
    listed = tuple(penalties.values() if isinstance(penalties, Mapping) else penalties)
    for penalty in listed:
        if not isinstance(penalty, Penalty):
            raise TypeError(
                f"`penalties` must be instances of `Penalty`, got {penalty!r}. Pass for example [L2SP()]."
            )
    return listed


def _check_together(strategy: Strategy, penalties: Sequence[Penalty], schedule: Schedule) -> None:
    if not any(penalty.keeps_apart for penalty in penalties):
        return
    where = "where a penalty keeps rehearsed rows out of the batch"
    if strategy.learns:
        raise ValueError(
            f"`strategy` must be one that learns nothing {where}, got {type(strategy).__name__}, which would "
            "never see them answered. Use UniformCorrect()."
        )
    if isinstance(schedule, AdaptiveSchedule) and schedule.needs_damage:
        raise ValueError(
            f"`schedule` must not go by damage {where}, got {type(schedule).__name__}, which would never see "
            "any. Use EveryNSteps()."
        )


# Whether Lightning hands what is logged now on to its loggers; it would repeat what it was given before.
def _logs_now(trainer: Trainer, pl_module: LightningModule) -> bool:
    if pl_module.automatic_optimization and trainer.fit_loop._should_accumulate():  # noqa: SLF001
        return False
    # Its own callbacks ask this too.
    return bool(trainer._logger_connector.should_update_logs)  # noqa: SLF001
