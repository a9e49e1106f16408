"""Everything of a rehearsal that exists for the length of one `fit`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor

from lightning_mixcd.capture import Listening, Readout
from lightning_mixcd.data.host_copy import to_device
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.stream import PoolStream
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.functional.joining import join, n_rows, pick_rows
from lightning_mixcd.learner import Learner, Ticket
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.ledger_source import LedgerSource
from lightning_mixcd.look import Look
from lightning_mixcd.pace import Pace
from lightning_mixcd.penalties.base import Apart, Penalty, Start
from lightning_mixcd.probe import Probe
from lightning_mixcd.ranks import Ranks
from lightning_mixcd.schedules import Schedule
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.strategies._screening import Candidates, Screening
from lightning_mixcd.terms import Terms
from lightning_mixcd.transfer import Transfer
from lightning_mixcd.wiring import BatchHook

__all__ = ["Session", "Settings"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Settings:
    """What a session is asked to do; see `RehearsalCallback` for each.

    Args:
        strategy: Which samples are rehearsed.
        pool: The samples that may be.
        ledger: The base model's record of them, or its folder.
        mix_ratio: Rehearsed samples per finetune sample.
        schedule: At which optimizer steps.
        readout: Where correctness is found.
        seed: Seed of all draws.
        penalties: What else holds on to what the base model knew.
        rehearsal_weight: Weight of a rehearsed row in the loss.
    """

    strategy: Strategy
    pool: Pool
    ledger: Ledger | str | Path | None
    mix_ratio: float
    schedule: Schedule
    readout: Readout
    seed: int
    penalties: Sequence[Penalty] = ()
    rehearsal_weight: float = 1.0


class Session:
    """Rehearses during one `fit`: made in `setup`, begun in `on_fit_start`, used at every batch, ended once.

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
        self.probe = Probe(pl_module, self.pool, self.readout, transfer=way.whole, context=way.precision)
        rate = partial(_learning_rate, trainer)
        self.look = Look(pl_module, self.readout, context=way.precision, learning_rate=rate)
        self.ranks = Ranks(trainer)
        self._total = partial(self.ranks.reduce, how="sum")
        self.terms = Terms(
            settings.penalties, settings.rehearsal_weight, pl_module, self.readout, self.look, self._total
        )
        self._source = LedgerSource(
            settings.ledger, self.pool, [self.strategy, *settings.penalties], trainer, pl_module
        )
        self.ledger = self._source.ledger
        self.stream: PoolStream | None = None  # made by `begin`
        self._listener: Listening | None = None
        self._reads = False  # whether correctness is wanted
        self._knows_base = False  # whether it is known what the base model had right
        self._ticket: Ticket | None = None
        device = trainer.strategy.root_device
        self.learner = Learner(
            self.strategy,
            device=device,
            total=self._total,
            everyones=self.ranks.gather_each,
        )
        self.lesson = False  # whether the strategy has just learnt
        self._candidates_per_row = (
            self.strategy.candidates_per_row if isinstance(self.strategy, Screening) else 1
        )
        self._recorded = 0  # forwards of a ledger recorded by this session
        self.stepped = False  # whether the batch just trained ended an optimizer step
        self.step = 0  # optimizer steps so far
        self._batches = 0  # since the last lesson
        self._shares = 0.0  # optimizer steps begun, not ended, under gradient accumulation
        self.hook = BatchHook(trainer, pl_module, self.mix)

    def begin(self, *, resumed: bool) -> None:
        """Get ready for the first batch, now that the module is built, converted and on its device.

        Args:
            resumed: Whether another session is continued, so that the weights are no longer the base model's.

        Raises:
            LedgerError: If the ledger is of another base model, or missing when it can no longer be made.
            ValueError: If strategy, penalties and schedule cannot work together.
        """
        self._transfer.begin()
        self.ledger = self._source.checked(self.probe, resumed=resumed)
        self._recorded = self.probe.forwards
        if self.strategy.refresh_every_n_steps is not None:
            self.probe.check()
        screens = isinstance(self.strategy, Screening)
        if screens or self.terms.needs_look:
            self.look.check()
        self.look.with_features = screens and self.strategy.needs_features
        streams = self.pool.dataset if isinstance(self.pool.dataset, Streams) else None
        if self.strategy.needs_features:
            self.strategy.attach(self.readout.head(self.module))
        if streams is None:
            self.strategy.setup(len(self.pool), self.ledger, seed=self.settings.seed)
        else:
            self.strategy.setup_streams(streams.sizes, seed=self.settings.seed)
        self._knows_base = self.ledger is not None or streams is not None
        # Without a ledger, a strategy that learns nothing makes do with modules that say nothing.
        learns = type(self.strategy).tally is not Strategy.tally
        self._reads = self.strategy.rehearses and (learns or self._knows_base)
        self._reads_features = self.strategy.needs_features and not screens
        self._listener = self.readout.attach(self.module, with_features=self._reads_features)
        if learns and self.terms.keeps_apart:
            raise ValueError(
                f"`strategy` must be one that learns nothing where a penalty keeps rehearsed rows out of the "
                f"batch, got {type(self.strategy).__name__}, which would never see them answered. Use "
                "UniformCorrect()."
            )
        self.terms.begin(
            None if resumed else self._start(),
            weighs="weight" in self.strategy.context(torch.zeros(0, dtype=torch.int64)),
        )
        self.pace.begin(self.module, knows_base=self._knows_base)
        self.stream = PoolStream(
            self.pool,
            self.strategy,
            self._ticket_columns(),
            seed=self.settings.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.size,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def mix(self, batch: object) -> object:
        """Append the rows that are due to a finetune batch on the device.

        Args:
            batch: The finetune batch.

        Returns:
            The batch that the training step will see.
        """
        self._ticket = self.terms.ticket = None
        self.step = self.trainer.global_step
        self.readout.forget()
        # The learning rate finder trains before `on_fit_start`.
        if self.stream is None or not self.strategy.rehearses:
            return batch
        rows = n_rows(batch)
        if not self.stream.rows_per_draw:
            most = self.pace.ration.most(rows) * self._candidates_per_row
            self.stream.begin(int(self.ranks.total(most)))
        n = self.pace.due(rows, self.step)
        if n == 0:
            return batch
        drawn = self.stream.take(n * self._candidates_per_row)
        ticket, new = drawn["ticket"], self._transfer.bring(drawn["batch"], key=self.pace.ration.given_rows)
        if isinstance(self.strategy, Screening):
            ticket, new = self._screened(self.strategy, n, ticket, new, batch)
        if self.terms.keeps_apart:
            self.terms.apart.append(Apart(self._transfer.preview(new), ticket, self.look))
            return batch
        self._ticket = self.terms.ticket = ticket
        return join(batch, new, pad_values=self.pool.pad_values)

    def observe(self, outputs: object, batch: object, *, rows: int) -> None:
        """Learn from the step that was just made.

        Args:
            outputs: What `training_step` returned, as Lightning hands it on.
            batch: What it was given.
            rows: Rows of that.
        """
        before, self.step = self.step, self.trainer.global_step
        self._count_steps(self.step - before)
        # Without outputs, automatic optimization has skipped the batch, as the user's module asked.
        skipped = not outputs and self.module.automatic_optimization
        if self._ticket is not None and not skipped and self._reads:
            reading = self.readout.read(
                outputs,
                batch,
                rows=rows,
                last=len(self._ticket["index"]),
                with_loss=self.strategy.needs_loss,
                with_logits=self.strategy.needs_logits,
                with_features=self._reads_features,
            )
            self.learner.add(self._ticket, reading)
        if self.stepped:
            self.pace.after_step(self.module)
        self._refresh(before)
        self._batches += 1
        self.lesson = self._batches >= self.pool.round and self.stream is not None
        if self.lesson:
            self._learn()

    @property
    def extra_units(self) -> int:
        """Compute units spent on looking at the model so far, beside training and ledger."""
        looked = self.look.forwards + 2 * self.look.backwards
        return looked + self.probe.forwards - self._recorded

    def report(self) -> dict[str, Tensor]:
        """Return what is logged, on the device, and start counting anew."""
        found = {**self.strategy.metrics(), **self.terms.metrics(), **self.pace.metrics()}
        share = self.learner.damaged_share() if self._knows_base else None
        return found if share is None else {**found, "damaged_share": share}

    def end(self) -> None:
        """Leave the module and its hooks as they were, and stop the workers; the state stays readable."""
        self.hook.undo()
        self.terms.detach()
        if self._listener is not None:
            self._listener.remove()
        if self.stream is not None:
            self.stream.close()

    def state_dict(self, *, together: bool) -> dict[str, Any]:
        """Return what a resumed run needs: whole numbers, floats, strings and tensors only.

        Args:
            together: Whether all processes are here, so that counts can be summed.

        Returns:
            The state; empty if the session has not begun.
        """
        if self.stream is None:
            return {}
        ration = self.pace.ration.state_dict()
        place = torch.cat([torch.tensor([*ration.values()]), self.stream.place])
        places = self.ranks.gather(place) if together else place[None]
        return {
            "run": {"strategy": type(self.strategy).__name__, "n_pool": len(self.pool)},
            "places": places,
            "stream": self.stream.state_dict(),
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
            ValueError: If it is of another strategy or pool.
        """
        assert self.stream is not None  # noqa: S101 -- made by `begin`
        run = {"strategy": type(self.strategy).__name__, "n_pool": len(self.pool)}
        if run != state["run"]:
            raise ValueError(
                f"A run must be resumed with the strategy and pool it was begun with, {state['run']}, got "
                f"{run}. To start another finetuning from these weights, load them into the module and leave "
                "out `ckpt_path`."
            )
        self.strategy.load_state_dict(state["strategy"])
        self.learner.load_state_dict(state["learner"], rank=self.ranks.rank, size=self.ranks.size)
        self._batches, self._shares = state["batches"], state["shares"]
        self.terms.load_state_dict(state["penalties"], device=self.learner.device)
        self.pace.load_state_dict(state["schedule"])
        rations, places = state["places"].tensor_split([2], dim=1)
        self.stream.load_state_dict(state["stream"], places)
        if state["stream"]["world_size"] == self.ranks.size:
            finetune_rows, given_rows = rations[min(self.ranks.rank, len(rations) - 1)].tolist()
            self.pace.ration.load_state_dict({"finetune_rows": finetune_rows, "given_rows": given_rows})

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
        assert self.stream is not None  # noqa: S101 -- as `observe` has seen
        self._batches = 0
        if self._reads:
            self.learner.learn()
            self.pace.after_lesson(self.learner.damage_rate)
        self.stream.note(partial(self.ranks.reduce, how="max"))

    def _screened(
        self, strategy: Screening, n: int, ticket: Ticket, rows: object, finetune: object
    ) -> tuple[Ticket, object]:
        ticket = {name: to_device(values, self.learner.device) for name, values in ticket.items()}
        rows_seen, finetune_seen = self._transfer.preview(rows), self._transfer.preview(finetune)
        chosen = strategy.screen(Candidates(rows_seen, finetune_seen, ticket, self.look), n)
        return {name: values[chosen] for name, values in ticket.items()}, pick_rows(rows, chosen)

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

    # What is known of each pool sample, by its name in tickets.
    def _ticket_columns(self) -> dict[str, Array]:
        if self.ledger is None:
            return {}
        return {"base_correct": self.ledger.correct, **self.terms.columns(self.ledger)}


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
