"""A training stage as influence functions see it: a model at its optimum, and what it was trained on."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, Dataset

from lightning_mixcd.capture import Readout
from lightning_mixcd.data.pool import Pool, as_pool
from lightning_mixcd.data.seeded import seeded
from lightning_mixcd.errors import CaptureError, check_counts, check_range
from lightning_mixcd.functional.joining import n_rows, unshared
from lightning_mixcd.reading import described
from lightning_mixcd.traceless import outputs_of, quiet

__all__ = ["RowLosses", "Stage"]

RowLosses = Callable[[Any, Any], Tensor]
Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class Stage:
    """A model at the end of a training stage, and the objective that the stage minimised.

    The objective is the mean loss over `data` plus `weight_decay` / 2 times the squared norm of the
    parameters that require gradients. The model is run in eval mode; its modes are put back.

    Args:
        module: The model, on the device it should run on. Parameters that do not require gradients count as
            constants.
        data: The samples of the stage: a dataset, or a `Pool` with a `collate_fn` of its own.
        losses: `losses(module, batch)` returns the loss of each row, `(R,)`; by default what `readout` finds
            in the outputs of `training_step`, or in those of a plain module's forward.
        weight_decay: Weight decay of the stage, as in `torch.optim.SGD`.
        batch_size: Samples per forward.
        readout: How losses are read, where `losses` is None.

    Raises:
        ValueError: If `weight_decay` is negative, `batch_size` is below 1, or no parameter requires
            gradients.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.eye(3), torch.tensor([0, 1, 0]))
        >>> Stage(nn.Linear(3, 2), data).mean_loss().shape
        torch.Size([])
    """

    module: nn.Module
    data: Pool | Dataset[Any] | Sequence[Any]
    losses: RowLosses | None = None
    weight_decay: float = 0.0
    batch_size: int = 256
    readout: Readout = field(default_factory=Readout)

    def __post_init__(self) -> None:
        check_range("[0, inf)", "Pass that of the stage.", weight_decay=self.weight_decay)
        check_counts("The default is 256.", batch_size=self.batch_size)
        if not self.parameters():
            raise ValueError(
                "`module` must have parameters that require gradients, got none. Thaw those that the stage "
                "trained: `parameter.requires_grad_()`."
            )

    @property
    def pool(self) -> Pool:
        """The data, as a pool."""
        return as_pool(self.data)  # type: ignore[arg-type]

    def parameters(self) -> Parameters:
        """Return the parameters that require gradients, by name, detached."""
        return {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

    def batches(self, index: npt.NDArray[np.int64] | None = None) -> Iterator[Any]:
        """Yield samples, collated and on the module's device, in order.

        Args:
            index: Positions in the data; None for all.

        Yields:
            Batches.
        """
        pool = self.pool
        rows = range(len(pool)) if index is None else index
        starts = range(0, len(rows), self.batch_size)
        loader: DataLoader[Any] = DataLoader(
            pool.dataset,
            # One batch at a time: a list of all positions would outweigh the scores.
            batch_sampler=([int(i) for i in rows[start : start + self.batch_size]] for start in starts),
            collate_fn=pool.collate_fn,
            num_workers=pool.num_workers,
            generator=torch.Generator(),
        )
        device = next(iter(self.parameters().values())).device
        with seeded(0):
            for batch in loader:
                yield move_data_to_device(batch, device)

    @contextmanager
    def running(self) -> Iterator[Callable[[Parameters, Any], Tensor]]:
        """Make the losses a function of the parameters, for a while.

        Yields:
            A function of parameters by name and a batch, which returns the loss of each row, `(R,)`.
        """
        call = _Losses(self)

        def losses(parameters: Parameters, batch: object) -> Tensor:
            named = {f"module.{name}": value for name, value in parameters.items()}
            found: Tensor = functional_call(call, named, (batch,))
            return found

        # Fused attention has no second derivatives, and torch's encoders in eval mode no forward ones.
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with self.at_rest(), sdpa_kernel(SDPBackend.MATH):
                yield losses
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Put the module into eval mode without gradients, for a while.

        Yields:
            Nothing.
        """
        with quiet(self.module), self.readout.attach(self.module):
            yield

    def row_losses(self, batch: object) -> Tensor:
        """Run the module on a batch, as it is.

        Args:
            batch: The batch; not changed, whatever the module writes into it.

        Returns:
            The loss of each row, `(R,)`.

        Raises:
            CaptureError: If there is not one loss per row.
        """
        found: object = (self.losses or self._read)(self.module, unshared(batch))
        rows = n_rows(batch)
        if not isinstance(found, Tensor) or found.shape != (rows,):
            raise CaptureError(
                f"`losses` must return the loss of each row, of shape ({rows},), got {described(found)}. Do "
                'not take the mean: `cross_entropy(logits, labels, reduction="none")`.'
            )
        return found

    def _read(self, module: nn.Module, batch: object) -> Tensor:
        outputs = outputs_of(module, batch, self.readout)
        loss = self.readout.read(outputs, batch, with_loss=True, with_graph=True).loss
        if loss is None:
            raise CaptureError(
                "Influence needs the loss of each row, and the outputs have none. Return logits, or pass "
                "Stage(losses=lambda module, batch: ...)."
            )
        return loss

    def mean_loss(self) -> Tensor:
        """Return the mean loss over the data, without weight decay, 0-dim."""
        with self.running() as losses, torch.no_grad():
            parameters = self.parameters()
            return torch.cat([losses(parameters, batch) for batch in self.batches()]).mean()


class _Losses(nn.Module):
    """Runs a stage's module as a forward of its own, so that parameters can be given to it."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.module, self._stage = stage.module, stage

    def forward(self, batch: object) -> Tensor:
        return self._stage.row_losses(batch)
