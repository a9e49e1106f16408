"""No step against the gradient of any group of the rehearsed rows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.functional.joining import pick_rows
from lightning_mixcd.functional.projection import project_to_cone
from lightning_mixcd.partitions.base import Partition
from lightning_mixcd.penalties._rehearsed import refuse_no_rehearsal
from lightning_mixcd.penalties._vectors import flat, overwrite
from lightning_mixcd.penalties.base import Apart, Penalty, Start

__all__ = ["GEM"]


class GEM(Penalty):
    """Turns the finetune gradient so that it points against the gradient of no group of rehearsed rows.

    Gradient episodic memory (Lopez-Paz and Ranzato 2017, arXiv:1706.08840), with the bins of a partition in
    the place of former tasks. Rehearsed rows stay out of the training batch, as with `AGEM`. The dual problem
    is solved on the host by SciPy (extra `report`), so every optimizer step waits for the device, and memory
    grows by the size of the gradients for each bin among the rows of a step.

    Deviation: a step's constraints are of the rows rehearsed in it; the authors take all that is remembered,
    in every step.

    Args:
        partition: Its bins are the groups, such as `ByColumn("source")`.
        margin: The least that every group's gradient is added with where any is pointed against, 0 or more;
            the authors' gamma.

    Raises:
        ValueError: If `margin` is out of range; at the start of `fit`, if the strategy rehearses nothing.

    Example:
        >>> from lightning_mixcd import RehearsalCallback, Uniform
        >>> from lightning_mixcd.partitions import ByColumn
        >>> callback = RehearsalCallback(Uniform(), pool=range(1000), penalties=[GEM(ByColumn("source"))])
    """

    needs_ledger = True
    needs_look = True
    keeps_apart = True

    def __init__(self, partition: Partition, *, margin: float = 0.5) -> None:
        if not isinstance(partition, Partition):
            raise TypeError(
                f"`partition` must be a `Partition`, got {partition!r}. Pass for example ByLabel()."
            )
        check_range("[0, inf)", "The default is 0.5.", margin=margin)
        self.partition, self.margin = partition, margin
        self._bins = torch.zeros(0, dtype=torch.int8)

    @override
    def setup(self, start: Start) -> None:
        refuse_no_rehearsal(self, start)
        assert start.ledger is not None  # noqa: S101 -- promised by `needs_ledger`
        self._bins = torch.from_numpy(np.array(self.partition.bins(start.ledger)))

    @override
    def change_gradients(
        self,
        gradients: Mapping[str, Tensor],
        apart: Sequence[Apart],
        total: Callable[[Tensor], Tensor],
    ) -> None:
        gradient = flat(gradients.values())
        bins = [self._bins[part.ticket["index"].cpu()].long() for part in apart]
        counts = torch.zeros(int(self._bins.max()) + 1)
        for of_rows in bins:
            counts += of_rows.bincount(minlength=len(counts))
        counts = total(counts).cpu()
        present = counts.nonzero().flatten().tolist()
        sums = gradient.new_zeros(len(present), len(gradient))
        for part, of_rows in zip(apart, bins, strict=True):
            for place, number in enumerate(present):
                rows = (of_rows == number).nonzero().flatten()
                if len(rows):
                    found = part.look.gradient(pick_rows(part.batch, rows.to(gradient.device)))
                    sums[place].add_(flat(found[name] for name in gradients), alpha=len(rows))
        if present:
            references = total(sums).div_(counts[present].to(gradient.device)[:, None])
            overwrite(gradients.values(), project_to_cone(gradient, references, self.margin))

    @override
    def state_dict(self) -> dict[str, Tensor]:
        return {"bins": self._bins}

    @override
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._bins = state["bins"].cpu()
