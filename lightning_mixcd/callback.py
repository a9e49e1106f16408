"""The callback: rehearses while somebody else's model is finetuned."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import Dataset
from typing_extensions import override

from lightning_mixcd.capture import Readout
from lightning_mixcd.data.datamodule import RehearsalDataModule
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.functional.joining import n_rows
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.schedules import EveryNSteps
from lightning_mixcd.session import Session, Settings
from lightning_mixcd.strategies import Strategy

__all__ = ["RehearsalCallback"]


class RehearsalCallback(Callback):
    """Rehearses pool samples beside every finetune batch and learns from them which to rehearse next.

    The module is used as it is: its `training_step` sees one ordinary batch, of the structure it knows, with
    the pool rows after the finetune rows. Which of the pool rows it got right is read from what that step
    returned. Validation, test and predict are not touched, nor is any random state, gradient or module mode.

    Args:
        strategy: Which samples are rehearsed.
        pool: The samples that may be rehearsed; or give them to a `RehearsalDataModule`.
        ledger: The base model's record of the pool, or its folder. If there is none in the folder yet, it is
            recorded at the start of `fit`, with the module as it is then. Strategies that know no base
            model do without.
        mix_ratio: Rehearsed samples per finetune sample, in (0, 16]; what a step's share leaves behind the
            point is carried over.
        schedule: At which optimizer steps to rehearse; every step by default.
        readout: Where correctness is to be found in what `training_step` returns; see `Readout`.
        seed: Seed of all draws.

    Raises:
        ValueError: At the start of `fit`, if there is no pool, or two; if the strategy needs a ledger and
            there is none; if a number is out of range.
        LedgerError: At the start of `fit`, if the ledger is of another pool or base model.
        CaptureError: At the first step, if correctness is wanted and cannot be read; a strategy that learns
            nothing needs it for a ledger only.

    Example:
        >>> from lightning_mixcd import MixCD, RehearsalCallback
        >>> callback = RehearsalCallback(MixCD(), pool=range(1000), ledger="base.ledger", mix_ratio=0.25)
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        pool: Pool | Dataset[Any] | None = None,
        ledger: Ledger | str | Path | None = None,
        mix_ratio: float | None = None,
        schedule: Callable[[int], bool] | None = None,
        readout: Readout | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(strategy, Strategy):
            raise TypeError(
                f"`strategy` must be an instance of `Strategy`, got {strategy!r}. Pass for example MixCD()."
            )
        self.strategy = strategy
        self.pool = pool if pool is None or isinstance(pool, Pool) else Pool(pool)
        self.ledger, self.mix_ratio = ledger, mix_ratio
        self.schedule = schedule or EveryNSteps(1)
        self.readout = readout or Readout()
        self.seed = seed
        self._units = 0  # compute units of all processes, up to where this run began or was resumed
        self._own_units = 0  # of this process since
        self._session: Session | None = None
        self._resumed: dict[str, Any] | None = None  # state that waits for the session to begin
        self._live = False  # between `setup` and the end of `fit`
        self._together = True  # whether all processes still run the same steps

    @property
    def compute_units(self) -> int:
        """Sample-forwards + 2 x sample-backwards of all processes, ledger pass included.

        While `fit` runs, the batches of other processes are taken to be as large as those of this one.
        """
        n_ranks = 1 if self._session is None else self._session.ranks.size
        return self._units + n_ranks * self._own_units

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._end()
            self._session = self._resumed = None
            self._session = Session(self._settings(trainer), trainer, pl_module)
            self._live, self._together = True, True

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._session is not None  # noqa: S101 -- made by `setup`
        self._session.begin(resumed=self._resumed is not None)
        # A ledger that only serves to log damage is not the strategy's cost.
        ledger = self._session.ledger if self.strategy.needs_ledger else None
        self._units, self._own_units = 0 if ledger is None else ledger.forwards, 0
        if self._resumed is not None:
            self.load_state_dict(self._resumed)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        session = self._session
        if session is None or session.stream is None:
            return
        rows = n_rows(batch)
        self._own_units += 3 * rows + session.observe(outputs, batch, rows=rows)
        if _logs_now(trainer, pl_module, session):
            units = self._units + session.ranks.total(self._own_units)
            pl_module.log("rehearsal/compute_units", 1.0 * units)
            found = session.report()
            if not trainer.loggers:
                # Lightning takes some 0.4 ms for each value, and nobody would see those of single bins.
                found = {name: value for name, value in found.items() if "/" not in name}
            pl_module.log_dict({f"rehearsal/{name}": value for name, value in found.items()})

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._session is not None  # noqa: S101 -- made by `setup`
        self._units, self._own_units = self._all_units(self._session), 0

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # Lightning does not call `teardown` after an exception; other processes may not have had one.
        self._together = False
        self._end()

    def _end(self) -> None:
        # The session is kept: a checkpoint may still be saved.
        if self._session is not None and self._live:
            self._session.end()
        self._live = False

    @override
    def state_dict(self) -> dict[str, Any]:
        if self._session is None or self._session.stream is None:
            return {}
        units = self._all_units(self._session) if self._together else self.compute_units
        return {"version": 1, "compute_units": units, **self._session.state_dict(together=self._together)}

    def _all_units(self, session: Session) -> int:
        return self._units + int(session.ranks.total(self._own_units))

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._live or self._session is None:
            return  # validation, test and predict restore callbacks too
        if self._session.stream is None:
            self._resumed = state_dict  # until `on_fit_start`
            return
        self._units, self._own_units = state_dict["compute_units"], 0
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
        if pool is None:
            raise ValueError(
                "`pool` must be given, got none. Pass RehearsalCallback(strategy, pool=dataset), or fit with "
                "a `RehearsalDataModule`."
            )
        mix_ratio = 0.25 if mix_ratio is None else mix_ratio
        return Settings(self.strategy, pool, ledger, mix_ratio, self.schedule, self.readout, self.seed)


# Whether Lightning hands what is logged now on to its loggers.
def _logs_now(trainer: Trainer, pl_module: LightningModule, session: Session) -> bool:
    every: int = getattr(trainer, "log_every_n_steps", 0)
    if not pl_module.automatic_optimization:
        return every > 0 and (trainer.fit_loop.epoch_loop.total_batch_idx + 1) % every == 0
    return every > 0 and session.stepped and session.step % every == 0
