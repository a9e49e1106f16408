"""What the current model makes of pool samples."""

from collections.abc import Callable, Container, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_mixcd.capture import Reading, Readout
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.data.pool_fetch import PoolFetch, as_it_is
from lightning_mixcd.data.seeded import seeded
from lightning_mixcd.data.streams import Streams
from lightning_mixcd.errors import CaptureError, check_kept, of_the_pool
from lightning_mixcd.functional.joining import n_rows
from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.functional.tolerance import right_now
from lightning_mixcd.ranks import Ranks
from lightning_mixcd.traceless import cuda_states_kept, outputs_of, plain, quiet
from lightning_mixcd.types import PoolRows
from lightning_mixcd.wiring import rehearsal_step

__all__ = ["Probe"]

Indices = Sequence[int] | npt.NDArray[np.int64]


class Probe:
    """Forwards pool samples through the current model in eval mode, and counts them.

    Several processes share the batches out, and all of them get what was read of each.

    Module modes, metrics inside the module, gradients, random states and the module's log are as before when
    it is done. Random transforms of the pool give the same samples every time.

    Args:
        module: The model.
        pool: Where samples come from.
        readout: How correctness is read of the outputs.
        transfer: Brings a collated batch to the device, as training does; by default the module's own hooks.
        context: Context of each forward, such as the trainer's precision; none by default.
        ranks: The processes, all of which must ask for the same samples; by default this one alone.

    Attributes:
        known: Returns what is known of pool samples, such as the loss that is allowed.
        forwards: Sample-forwards of all processes so far.
    """

    def __init__(
        self,
        module: nn.Module,
        pool: Pool,
        readout: Readout,
        *,
        transfer: Callable[[object], object] | None = None,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
        ranks: Ranks | None = None,
    ) -> None:
        inner = getattr(module, "_orig_mod", module)
        # A compiled LightningModule hides its `training_step`.
        self.module = inner if isinstance(inner, LightningModule) else module
        self.pool, self.readout = pool, readout
        self.transfer, self.context = transfer or self._default_transfer, context
        self.known: Callable[[Tensor], Mapping[str, Tensor]] = _nothing_known
        self.ranks, self.forwards = ranks, 0

    @property
    def size(self) -> int:
        """How many processes there are."""
        return 1 if self.ranks is None else self.ranks.size

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes."""
        return self.ranks is None or self.ranks.rank == 0

    def everyones(self, tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return the tensors of each process; all must come here.

        Args:
            tensors: This one's, on the host.

        Returns:
            Those of all, in their order.
        """
        return [tensors] if self.ranks is None else self.ranks.gather_each(tensors)

    def check(self) -> None:
        """Refuse a pool without random access, and a model that cannot be run outside of training.

        Raises:
            TypeError: If the pool is of `Streams`.
            CaptureError: If the model optimizes in its `training_step` and nothing else is named to be run.
        """
        if isinstance(self.pool.dataset, Streams):
            self.pool.dataset[0]  # says why not
        manual = isinstance(self.module, LightningModule) and not self.module.automatic_optimization
        if manual and self.readout.step is None and rehearsal_step(self.module) is None:
            raise CaptureError(
                "A `training_step` with manual optimization cannot be run without training. Say how to get "
                "its outputs: Readout(step=lambda module, batch: {'logits': module(batch['x'])})."
            )

    def readings(
        self, index: Indices, *, keep: Container[str] = ()
    ) -> Generator[tuple[Tensor, Reading], None, None]:
        """Forward pool samples, batch by batch.

        The model is out of training until the iterator is used up or closed; see `contextlib.closing`.

        Args:
            index: Pool indices.
            keep: What else to read: "features", "logits".

        Yields:
            The indices of a batch, int64, and what was read of it, with losses.
        """
        self.check()
        loader = DataLoader(
            PoolFetch(replace(self.pool, unreadable="raise"), seed=0),
            batch_sampler=((mine[0], mine, []) for _, mine in self._turns(index)),  # type: ignore[misc]
            collate_fn=as_it_is,
            num_workers=self.pool.num_workers,
        )
        with_features = "features" in keep
        listening = self.readout.attach(self.module, with_features=with_features)
        with seeded(0), cuda_states_kept(), quiet(self.module), listening:
            for (chunks, mine), fetched in zip(self._turns(index), loader, strict=True):
                # By the samples alone, so that a recording that was interrupted goes on as it would have.
                with seeded(stream_key(0, mine[0])), self.context():
                    moved = self.transfer(fetched.batch)
                    check_kept(n_rows(plain(moved)), len(mine))
                    with of_the_pool():
                        outputs = outputs_of(self.module, PoolRows(moved), self.readout)
                self.forwards += sum(map(len, chunks)) + (self.size - len(chunks)) * len(chunks[-1])
                reading = self.readout.read(
                    outputs,
                    moved,
                    with_loss=True,
                    with_logits="logits" in keep,
                    with_features=with_features,
                )
                yield from zip(map(torch.tensor, chunks), self._readings_of_all(reading), strict=False)

    # The batches that all ranks forward at the same time, and this one's. Where there are too few in the end,
    # the last one is forwarded again, since a sharded model needs all ranks. One turn after the other: the
    # list of all would outweigh the ledger.
    def _turns(self, index: Indices) -> Iterator[tuple[list[list[int]], list[int]]]:
        rank = 0 if self.ranks is None else self.ranks.rank
        size = self.pool.batch_size
        for first in range(0, len(index), self.size * size):
            end = min(first + self.size * size, len(index))
            chunks = [[int(i) for i in index[k : min(k + size, end)]] for k in range(first, end, size)]
            yield chunks, chunks[min(rank, len(chunks) - 1)]

    def _readings_of_all(self, reading: Reading) -> list[Reading]:
        if self.size == 1:
            return [reading]
        found: dict[str, Any] = {name: value.cpu() for name, value in reading.tensors.items()}
        return [Reading(**tensors, problem=reading.problem) for tensors in self.everyones(found)]

    def correct(self, index: Tensor) -> Tensor:
        """Return which samples the model gets right, or, where a loss is allowed, within that loss.

        Args:
            index: Pool indices, int64, `(n,)`.

        Returns:
            bool on the CPU, `(n,)`.
        """
        found = []
        for rows, reading in self.readings(index.numpy()):
            loss = None if reading.loss is None else reading.loss.cpu()
            found.append(right_now(reading.correct.cpu(), loss, self.known(rows)))
        return torch.cat(found)

    def losses(self, index: Tensor) -> Tensor:
        """Return the loss of each sample.

        Args:
            index: Pool indices, int64, `(n,)`.

        Returns:
            Nats, float32 on the CPU, `(n,)`; NaN where the target is no class.

        Raises:
            CaptureError: If the outputs have no losses.
        """
        found = []
        for _, reading in self.readings(index.numpy()):
            if reading.loss is None:
                raise CaptureError(
                    "The loss of each pool sample is asked for, and the outputs have none. Return logits, or "
                    '{"correct": ..., "losses": ...}, or let the `correctness` rule return (correct, losses).'
                )
            found.append(reading.loss.float().cpu())
        return torch.cat(found)

    def confidences(self, index: Tensor) -> Tensor:
        """Return the highest probability of each sample.

        Args:
            index: Pool indices, int64, `(n,)`.

        Returns:
            Probabilities, float32 on the CPU, `(n,)`.

        Raises:
            CaptureError: If the outputs have no logits.
        """
        found = []
        for _, reading in self.readings(index.numpy(), keep=("logits",)):
            if reading.logits is None:
                raise CaptureError(
                    "The confidence of each pool sample is asked for, and the outputs have no logits. Return "
                    "them, or choose a strategy that goes by losses, such as HighestLoss."
                )
            found.append(reading.logits.float().softmax(dim=-1).amax(dim=-1).cpu())
        return torch.cat(found)

    def _default_transfer(self, batch: object) -> object:
        device = next((p.device for p in self.module.parameters()), torch.device("cpu"))
        if not isinstance(self.module, LightningModule):
            return move_data_to_device(batch, device)
        batch = self.module.on_before_batch_transfer(batch, 0)
        batch = self.module.transfer_batch_to_device(batch, device, 0)
        return self.module.on_after_batch_transfer(batch, 0)


def _nothing_known(_index: Tensor) -> Mapping[str, Tensor]:
    return {}
