"""Everything of a rehearsal that exists for the length of one `fit`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_mixcd.capture import Readout
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.ration import Ration
from lightning_mixcd.data.seeded import seeded
from lightning_mixcd.data.stream import PoolStream
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.functional.joining import join, n_rows
from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.learner import Learner
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.ledger_source import LedgerSource
from lightning_mixcd.probe import Probe
from lightning_mixcd.ranks import Ranks
from lightning_mixcd.strategies import Strategy
from lightning_mixcd.wiring import BatchHook, own_hook

__all__ = ["Session", "Settings"]

BEFORE = "on_before_batch_transfer"


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
    """

    strategy: Strategy
    pool: Pool
    ledger: Ledger | str | Path | None
    mix_ratio: float
    schedule: Callable[[int], bool]
    readout: Readout
    seed: int


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
        self.ration = Ration(settings.mix_ratio)
        self.probe = Probe(
            pl_module, self.pool, self.readout, transfer=self._transfer, context=self._precision
        )
        self._source = LedgerSource(settings.ledger, self.pool, self.strategy, trainer, pl_module)
        self.ledger = self._source.ledger
        self.stream: PoolStream | None = None  # made by `begin`
        self._listener: RemovableHandle | None = None
        self._reads = False  # whether correctness is wanted
        self._knows_base = False  # whether it is known what the base model had right
        self._ticket: Mapping[str, Tensor] | None = None
        self.ranks = Ranks(trainer)
        device = trainer.strategy.root_device
        self.learner = Learner(self.strategy, device=device, total=partial(self.ranks.reduce, how="sum"))
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
        """
        owners = (getattr(self.trainer, "datamodule", None), self.module)
        own = partial(own_hook, self.trainer, self.module)
        self._before = own(BEFORE) if any(is_overridden(BEFORE, owner) for owner in owners) else None
        self._to_device = own("transfer_batch_to_device")
        self.ledger = self._source.checked(self.probe, resumed=resumed)
        if self.strategy.refresh_every_n_steps is not None:
            self.probe.check()
        streams = self.pool.dataset if isinstance(self.pool.dataset, Streams) else None
        if streams is None:
            self.strategy.setup(len(self.pool), self.ledger, seed=self.settings.seed)
        else:
            self.strategy.setup_streams(streams.sizes, seed=self.settings.seed)
        self._knows_base = self.ledger is not None or streams is not None
        # Without a ledger, a strategy that learns nothing makes do with modules that say nothing.
        learns = self._knows_base or type(self.strategy).tally is not Strategy.tally
        self._reads = self.strategy.rehearses and learns
        self._listener = self.readout.attach(self.module)
        self.stream = PoolStream(
            self.pool,
            self.strategy,
            None if self.ledger is None else self.ledger.correct,
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
        self._ticket, self.step = None, self.trainer.global_step
        self.readout.forget()
        # The learning rate finder trains before `on_fit_start`.
        if self.stream is None or not self.strategy.rehearses:
            return batch
        rows = n_rows(batch)
        if not self.stream.rows_per_draw:
            self.stream.begin(int(self.ranks.total(self.ration.most(rows))))
        n = self.ration.due(rows) if self.settings.schedule(self.step) else 0
        if n == 0:
            return batch
        drawn = self.stream.take(n)
        self._ticket = drawn["ticket"]
        return join(batch, self._bring(drawn["batch"]), pad_values=self.pool.pad_values)

    def observe(self, outputs: object, batch: object, *, rows: int) -> int:
        """Learn from the step that was just made.

        Args:
            outputs: What `training_step` returned, as Lightning hands it on.
            batch: What it was given.
            rows: Rows of that.

        Returns:
            Sample-forwards spent on looking at the model.
        """
        before, self.step = self.step, self.trainer.global_step
        self._count_steps(self.step - before)
        # Without outputs, automatic optimization has skipped the batch, as the user's module asked.
        skipped = not outputs and self.module.automatic_optimization
        if self._ticket is not None and not skipped and self._reads:
            last, with_loss = len(self._ticket["index"]), self.strategy.needs_loss
            reading = self.readout.read(outputs, batch, rows=rows, last=last, with_loss=with_loss)
            self.learner.add(self._ticket, reading)
        forwards = self._refresh(before)
        self._batches += 1
        if self._batches >= self.pool.round and self.stream is not None:
            self._batches = 0
            if self._reads:
                self.learner.learn()
            self.stream.note(partial(self.ranks.reduce, how="max"))
        return forwards

    def report(self) -> dict[str, Tensor]:
        """Return what is logged, on the device, and start counting anew."""
        found = dict(self.strategy.metrics())
        share = self.learner.damaged_share() if self._knows_base else None
        return found if share is None else {**found, "damaged_share": share}

    def end(self) -> None:
        """Leave the module and its hooks as they were, and stop the workers; the state stays readable."""
        self.hook.undo()
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
        ration = self.ration.state_dict()
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
        self.learner.load_state_dict(state["learner"], first=self.ranks.rank == 0)
        self._batches, self._shares = state["batches"], state["shares"]
        rations, places = state["places"].tensor_split([2], dim=1)
        self.stream.load_state_dict(state["stream"], places)
        if state["stream"]["world_size"] == self.ranks.size:
            finetune_rows, given_rows = rations[min(self.ranks.rank, len(rations) - 1)].tolist()
            self.ration.load_state_dict({"finetune_rows": finetune_rows, "given_rows": given_rows})

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

    def _refresh(self, before: int) -> int:
        every = self.strategy.refresh_every_n_steps
        if every is None or self.step // every == before // every:
            return 0
        forwards = self.probe.forwards
        self.strategy.refresh(self.probe)
        return self.probe.forwards - forwards

    def _transfer(self, batch: object) -> object:
        after = own_hook(self.trainer, self.module, "on_after_batch_transfer")
        moved: object = after(self._bring(batch), 0)
        return moved

    # Brings a pool batch to the device as Lightning brings a finetune batch.
    def _bring(self, batch: object) -> object:
        batch = self.trainer.precision_plugin.convert_input(batch)
        if self._before is not None:
            # What it draws for pool rows is not to shift what it draws for finetune rows.
            with seeded(stream_key(self.settings.seed, self.ration.given_rows)):
                batch = self._before(batch, 0)
        moved: object = self._to_device(batch, self.learner.device, 0)
        return moved

    def _precision(self) -> AbstractContextManager[Any]:
        return self.trainer.precision_plugin.forward_context()


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
