"""Everything of a rehearsal that exists for the length of one `fit`."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_mixcd.baseline import Baseline
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.errors import CaptureError, check_kept
from lightning_mixcd.functional.joining import agreed_rows, join, n_rows
from lightning_mixcd.learner import Learner, Ticket
from lightning_mixcd.ledger_source import LedgerSource
from lightning_mixcd.look import Look
from lightning_mixcd.pace import Pace
from lightning_mixcd.penalties.base import Apart, Penalty, Start
from lightning_mixcd.probe import Probe
from lightning_mixcd.ranks import Ranks
from lightning_mixcd.same_run import check_run, check_state, describe, tell
from lightning_mixcd.separate import SeparateStep
from lightning_mixcd.settings import Settings
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.strategies._screening import Screening
from lightning_mixcd.supply import Supply
from lightning_mixcd.terms import Terms
from lightning_mixcd.transfer import Transfer
from lightning_mixcd.wiring import BatchHook, held_by, rehearsal_step

__all__ = ["Session"]


class Session:
    """Rehearses during one `fit`: made in `setup`, begun in `on_fit_start`, started by training, ended once.

    Args:
        settings: What to do.
        trainer: The trainer.
        pl_module: The module, which may not have built its layers yet.

    Raises:
        TypeError: If trainer or module cannot be worked with.
        ValueError: If the mix ratio is out of range, or a ledger is needed and not given.
        LedgerError: If the ledger is damaged or of another pool.
    """

    def __init__(self, settings: Settings, trainer: Trainer, pl_module: LightningModule) -> None:
        _refuse_unusable(trainer, pl_module)
        self.trainer, self.module, self.settings = trainer, pl_module, settings
        self.strategy, self.pool, self.readout = settings.strategy, settings.pool, settings.readout
        self.pace = Pace(settings.mix_ratio, settings.schedule)
        self._transfer = way = Transfer(trainer, pl_module, seed=settings.seed)
        self._separate: SeparateStep | None = None
        if self.strategy.rehearses and rehearsal_step(pl_module) is not None:
            self._separate = SeparateStep(pl_module, self.readout)
        self.ranks = Ranks(trainer)
        self.probe = Probe(
            pl_module, self.pool, self.readout, transfer=way.whole, context=way.precision, ranks=self.ranks
        )
        self.look = Look(
            pl_module,
            self.readout,
            context=way.precision,
            learning_rate=partial(_learning_rate, trainer),
            held=lambda: held_by(*trainer.optimizers),
            scaler=getattr(trainer.precision_plugin, "scaler", None),
        )
        self._total = partial(self.ranks.reduce, how="sum")
        self._supply = Supply(settings, self.pace, way, self.look, self.ranks)
        penalties, weight = settings.penalties, settings.rehearsal_weight
        self.terms = Terms(penalties, weight, pl_module, self.readout, self.look, self._total, self._separate)
        users: list[Strategy | Penalty] = [self.strategy, *penalties]
        self._source = LedgerSource(settings.ledger, self.pool, users, trainer, pl_module)
        self.ledger = self._source.ledger
        self.begun = False
        self._listeners = ExitStack()
        self._wanted: dict[str, Any] | None = None  # what is read of rehearsed rows
        self._knows_base = False  # whether it is known what the base model had right
        self._ticket: Ticket | None = None
        device, everyones = trainer.strategy.root_device, self.ranks.gather_each
        self.learner = Learner(self.strategy, device=device, total=self._total, everyones=everyones)
        self.lesson = False  # whether the strategy has just learnt
        self._recorded = 0  # forwards of a ledger recorded by this session
        self.stepped = False  # whether the batch just trained ended an optimizer step
        self.step = 0  # optimizer steps so far
        self._batches = 0  # since the last lesson
        self._shares = 0.0  # optimizer steps begun, not ended, under gradient accumulation
        self._hooks: list[BatchHook] = []
        self._expected = False  # whether Lightning is bringing a batch to the device
        self._mixed: int | None = None  # how many batches were processed when rows were last taken

    def begin(self, *, resumed: bool) -> None:
        """Get ready for the first batch, now that the module is built, converted and on its device.

        Args:
            resumed: Whether another session is continued, so that the weights are no longer the base model's.

        Raises:
            LedgerError: If the ledger is of another base model, or missing when it can no longer be made.
            ValueError: If strategy, penalties and schedule cannot work together.
        """
        self.terms.check()  # before what takes long
        self._transfer.begin()
        baseline = self._open_ledger(resumed=resumed)
        self._set_up_strategy()
        self._choose_what_is_read()
        self._listen()
        self.terms.begin(
            None if resumed else self._start(),
            weighs="weight" in self.strategy.context(torch.zeros(0, dtype=torch.int64)),
        )
        self.pace.begin(self.module, knows_base=self._knows_base)
        columns = {} if self.ledger is None else self.terms.columns(self.ledger)
        self._supply.begin(baseline, columns, device=self.learner.device)
        self._begun_with = describe(self.settings, self.ledger)
        self.begun = True

    def _open_ledger(self, *, resumed: bool) -> Baseline:
        baseline = Baseline(self._source.checked(self.probe, resumed=resumed), self.readout.tolerance)
        self.ledger = baseline.ledger
        if self.readout.tolerance is not None:
            self.probe.known = baseline.known_of
        self._recorded = self.probe.forwards
        return baseline

    def _set_up_strategy(self) -> None:
        if self.strategy.refresh_every_n_steps is not None:
            self.probe.check()
        screens = isinstance(self.strategy, Screening)
        if screens or self.terms.needs_look:
            self.look.check()
        self.look.with_features = screens and self.strategy.needs_features
        if self.strategy.wants_head:
            try:
                self.strategy.attach(self.readout.head(self.module))
            except CaptureError as error:
                self.strategy.attach_none(error)
        streams = self.pool.dataset if isinstance(self.pool.dataset, Streams) else None
        if streams is None:
            self.strategy.setup(len(self.pool), self.ledger, seed=self.settings.seed)
        else:
            self.strategy.setup_streams(streams.sizes, seed=self.settings.seed)
        self._knows_base = self.ledger is not None or streams is not None

    def _choose_what_is_read(self) -> None:
        # Without a ledger, a strategy that learns nothing makes do with modules that say nothing.
        answered = self.strategy.rehearses and not self.terms.keeps_apart
        if answered and (self.strategy.learns or self._knows_base):
            self._wanted = {
                "with_loss": self.strategy.needs_loss or self.readout.tolerance is not None,
                "with_logits": self.strategy.needs_logits,
                "with_features": self.strategy.needs_features and not self.look.with_features,
            }

    def start(self) -> None:
        """Stand before the batches, until `stop`.

        Outside of an epoch, what takes the way of a batch is none of training: finders of a batch size or
        learning rate send some, as does a module with an `example_input_array`, or one that is exported.
        """
        if not self._hooks:
            hook = partial(BatchHook, self.trainer, self.module)
            self._hooks = [hook(self._expect, name="on_before_batch_transfer"), hook(self.mix)]

    def stop(self) -> None:
        """Let batches pass, until `start`."""
        while self._hooks:
            self._hooks.pop().undo()

    # What somebody else has moved to the device does not take this way.
    def _expect(self, batch: object) -> object:
        self._expected = True
        return batch

    def mix(self, batch: object) -> object:
        """Append the rows that are due to a finetune batch on the device, or have them ready beside it.

        Args:
            batch: The finetune batch.

        Returns:
            The batch that the training step will see.
        """
        if not self._expected:
            return batch
        self._expected = False
        self._ticket = None
        self.terms.forget()
        self.step = self.trainer.global_step
        self.readout.forget()
        if self._separate is not None:
            self._separate.forget()
        self._supply.mark()
        self._mixed = self._progress.total.processed
        # Lightning leaves out batches that are None.
        rehearses = self.strategy.rehearses and batch is not None
        if rehearses and (self.terms.keeps_apart or self._separate is not None):
            agreed_rows(batch, "finetune batch")  # as joining would find out
        taken = self._supply.take(batch, self.step) if rehearses else None
        if taken is None:
            return batch
        ticket, rows, key = taken
        if self.terms.keeps_apart:
            apart = self._transfer.marked(self._transfer.alone(rows, key=key))
            self.terms.apart.append(Apart(apart, ticket, self.look))
            return batch
        self._ticket = self.terms.ticket = ticket
        self.terms.joined = n_rows(batch) + ticket["index"].shape[0]
        if self._separate is not None:
            self._separate.expect(self._transfer.alone(rows, key=key))
            return batch
        return join(batch, rows, pad_values=self.pool.known_pad_values)

    def observe(self, outputs: object, batch: object, *, rows: int) -> int:
        """Learn from the step that was just made.

        Args:
            outputs: What `training_step` returned, as Lightning hands it on.
            batch: What it was given.
            rows: Rows of that.

        Returns:
            Rows that were trained on: these, and those of a `rehearsal_step`.
        """
        before, self.step = self.step, self.trainer.global_step
        self._count_steps(self.step - before)
        # Without outputs, automatic optimization has skipped the batch, as the user's module asked.
        skipped = not outputs and self.module.automatic_optimization
        if self._ticket is not None and not skipped and self._wanted is not None:
            self._note(self._ticket, outputs, batch, rows)
        if self.stepped:
            self.pace.after_step(self.module)
        self._refresh(before)
        self._batches += 1
        self.lesson = self._batches >= self.pool.round
        if self.lesson:
            self._learn()
        return rows if self._separate is None else rows + self._separate.rows

    @property
    def extra_units(self) -> tuple[int, int]:
        """Compute units beside training and ledger so far: on this process's looks, and on those of all."""
        return self.look.forwards + 2 * self.look.backwards, self.probe.forwards - self._recorded

    def report(self) -> dict[str, Tensor]:
        """Return what is logged, on the device, and start counting anew."""
        found = {**self.strategy.metrics(), **self.terms.metrics(), **self.pace.metrics()}
        share = self.learner.damaged_share() if self._knows_base else None
        return found if share is None else {**found, "damaged_share": share}

    def end(self) -> None:
        """Leave the module and its hooks as they were, and stop the workers; the state stays readable."""
        self.stop()
        self.terms.detach()
        self._listeners.close()
        if self.begun:
            self._supply.stream.close()

    def state_dict(self, *, together: bool) -> dict[str, Any]:
        """Return what a resumed run needs: whole numbers, floats, strings and tensors only.

        Args:
            together: Whether all processes are here, so that counts can be summed.

        Returns:
            The state; empty if the session has not begun.
        """
        if not self.begun:
            return {}
        # Saved because a step failed or a signal came: the batch will be made again.
        amid = self._progress.total.processed == self._mixed
        return {
            "run": self._begun_with,
            **self._supply.state_dict(together=together, again=amid),
            "strategy": self.strategy.state_dict(),
            "learner": self.learner.state_dict(together=together),
            "batches": self._batches,
            "shares": self._shares,
            "penalties": self.terms.state_dict(),
            "schedule": self.pace.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another session stopped; after `begin`.

        Args:
            state: The state.

        Raises:
            ValueError: If it is of a run that this one cannot continue.
        """
        different = check_run(state["run"], self._begun_with)
        check_state(type(self.strategy).__name__, state["strategy"], self.strategy.state_dict())
        self.strategy.load_state_dict(state["strategy"])
        self.learner.load_state_dict(state["learner"], rank=self.ranks.rank, size=self.ranks.size)
        self._batches, self._shares = state["batches"], state["shares"]
        self.terms.load_state_dict(state["penalties"], device=self.learner.device)
        if "schedule" not in different:
            self.pace.load_state_dict(state["schedule"])
        self._supply.load_state_dict(state)
        tell(different)

    @property
    def _progress(self) -> Any:  # noqa: ANN401 -- Lightning's, which it exports nowhere
        return self.trainer.fit_loop.epoch_loop.batch_progress

    def _listen(self) -> None:
        with_features = bool(self._wanted and self._wanted["with_features"])
        if self._separate is None:
            self._listeners = self.readout.attach(self.module, with_features=with_features)
            return
        self._listeners = self._separate.begin(self._wanted, alone=self.ranks.size == 1)
        if self.settings.penalties:  # who may read the finetune rows
            self._listeners.enter_context(self.readout.attach(self.module))

    def _note(self, ticket: Ticket, outputs: object, batch: object, rows: int) -> None:
        n = ticket["index"].shape[0]
        if self._separate is not None:
            reading = self._separate.reading
            check_kept(self._separate.rows, n)
        else:
            check_kept(rows, self.terms.joined)
            reading = self.readout.read(outputs, batch, rows=rows, last=n, **(self._wanted or {}))
        if reading is not None:
            self.learner.add(ticket, reading)

    # Under gradient accumulation every batch counts as its share of a step, and the one that ends the step as
    # what is missing to a whole: the last batches of an epoch may be fewer.
    def _count_steps(self, ended: int) -> None:
        self.stepped = ended > 0
        if self.stepped:
            self.learner.steps += ended - self._shares
            self._shares = 0.0
        elif self.module.automatic_optimization:
            share = 1 / self.trainer.accumulate_grad_batches
            self.learner.steps += share
            self._shares += share

    def _refresh(self, before: int) -> None:
        every = self.strategy.refresh_every_n_steps
        if every is not None and self.step // every != before // every:
            self.strategy.refresh(self.probe)

    def _learn(self) -> None:
        self._batches = 0
        if self._wanted is not None:
            self.learner.learn()
            self.pace.after_lesson(self.learner.damage_rate)
        self._supply.note()

    def _start(self) -> Start:
        return Start(
            self.module,
            self.look,
            self.ledger,
            len(self.pool),
            partial(self._transfer.samples, self.pool),
            self.settings.seed,
            self.ranks.rank,
            self.ranks.size,
            self._total,
            self.strategy.rehearses,
        )


def _learning_rate(trainer: Trainer) -> float:
    return float(trainer.optimizers[0].param_groups[0]["lr"])


def _refuse_unusable(trainer: Trainer, pl_module: LightningModule) -> None:
    if not isinstance(trainer, Trainer):
        raise TypeError(
            f"`RehearsalCallback` needs a `lightning.pytorch.Trainer`, got {type(trainer).__module__}."
            f"{type(trainer).__name__}. Import Trainer and LightningModule from `lightning.pytorch`."
        )
    if is_param_in_hook_signature(pl_module.training_step, "dataloader_iter", explicit=True):
        raise TypeError(
            "`training_step(self, dataloader_iter)` fetches its own batches, so none can be added to. "
            "Use `training_step(self, batch, batch_idx)`."
        )
