"""How rows reach the device: pool rows as Lightning brings finetune rows."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.pool_fetch import PoolFetch, as_it_is
from lightning_mixcd.data.seeded import seeded
from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.types import PoolRows
from lightning_mixcd.wiring import own_hook, rehearsal_step

__all__ = ["Transfer"]

BEFORE, AFTER = "on_before_batch_transfer", "on_after_batch_transfer"


class Transfer:
    """The trainer's way of bringing batches to the device, for one `fit`.

    Args:
        trainer: The trainer.
        pl_module: The module.
        seed: Seed of what the user's hooks draw at random for pool rows.
    """

    def __init__(self, trainer: Trainer, pl_module: LightningModule, *, seed: int) -> None:
        self._trainer, self._module, self._seed = trainer, pl_module, seed

    def begin(self) -> None:
        """Find the hooks' owners, once the datamodule is known; before the first batch."""
        owners = (getattr(self._trainer, "datamodule", None), self._module)
        own = partial(own_hook, self._trainer, self._module)
        self._before = own(BEFORE) if any(is_overridden(BEFORE, owner) for owner in owners) else None
        self._changes = any(is_overridden(AFTER, owner) for owner in owners)
        self._to_device = own("transfer_batch_to_device")
        self._convert = self._trainer.precision_plugin.convert_input
        self._device = self._trainer.strategy.root_device

    def bring(self, batch: object, *, key: int) -> object:
        """Bring a pool batch to the device, up to where finetune batches are when they are joined.

        Args:
            batch: The batch, collated.
            key: Tells batches apart, for whatever the user's hook draws at random.

        Returns:
            The batch there.
        """
        batch = self._convert(batch)
        if self._before is not None:
            # What it draws for pool rows is not to shift what it draws for finetune rows.
            with seeded(stream_key(self._seed, key)):
                batch = self._before(batch, 0)
        moved: object = self._to_device(batch, self._device, 0)
        return moved

    def finish(self, batch: object) -> object:
        """Take a batch on the device through the user's `on_after_batch_transfer`.

        Args:
            batch: The batch; the hook may change it.

        Returns:
            What `training_step` gets.
        """
        finished: object = own_hook(self._trainer, self._module, AFTER)(batch, 0)
        return finished

    def preview(self, batch: object) -> object:
        """Show what `training_step` would get for a batch on the device.

        Args:
            batch: The batch; stays as it is.

        Returns:
            What `training_step` would get.
        """
        if not self._changes:
            return batch
        with seeded(self._seed):
            return self.finish(copy.deepcopy(batch))

    def alone(self, batch: object, *, key: int) -> object:
        """Take pool rows that stay in a batch of their own through the user's `on_after_batch_transfer`.

        Args:
            batch: Their batch, on the device; the hook may change it.
            key: Tells batches apart, for whatever the hook draws at random.

        Returns:
            What the module gets, see `marked`.
        """
        if self._changes:
            with seeded(stream_key(self._seed, key)):
                batch = self.finish(batch)
        return batch

    def marked(self, batch: object) -> object:
        """Mark pool rows for looks at the model, where it has a step of its own for them.

        Args:
            batch: The rows, as the module gets them.

        Returns:
            The same, as `PoolRows` if there is a `rehearsal_step`.
        """
        return batch if rehearsal_step(self._module) is None else PoolRows(batch)

    def whole(self, batch: object) -> object:
        """Bring a collated batch all the way.

        Args:
            batch: The batch, on the host.

        Returns:
            What `training_step` gets.
        """
        return self.finish(self.bring(batch, key=0))

    def samples(self, pool: Pool, indices: Iterable[Sequence[int]]) -> Iterator[object]:
        """Bring pool samples to the device, batch by batch, as a look at the model wants them.

        Args:
            pool: The pool, whose workers read them.
            indices: Which samples each batch has, all of them readable.

        Yields:
            A batch, see `marked`.
        """
        loader = DataLoader(
            PoolFetch(replace(pool, unreadable="raise"), seed=self._seed),
            batch_sampler=((0, [*index], []) for index in indices),  # type: ignore[misc]
            collate_fn=as_it_is,
            num_workers=pool.num_workers,
            # Without its own generator the loader would take a seed from the global one.
            generator=torch.Generator(),
        )
        for fetched in loader:
            yield self.marked(self.whole(fetched.batch))

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which the trainer makes forwards."""
        return self._trainer.precision_plugin.forward_context()
