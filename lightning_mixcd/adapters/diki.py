"""An attention branch per task beside a frozen encoder, open where a sample looks like the task."""

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from types import MethodType
from typing import Any

import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
)
from typing_extensions import override

from lightning_mixcd.adapters._diki_pools import TaskPools
from lightning_mixcd.adapters._lora import find_heads
from lightning_mixcd.adapters.base import Adapter
from lightning_mixcd.data.seeded import seeded
from lightning_mixcd.errors import check_counts, check_range, check_whole
from lightning_mixcd.functional.joining import n_rows
from lightning_mixcd.functional.sampling import stream_key
from lightning_mixcd.traceless import cuda_states_kept, quiet
from lightning_mixcd.transfer import Transfer
from lightning_mixcd.wiring import call_step

__all__ = ["DIKI"]

OF_ALL = (SequentialSampler, RandomSampler, DistributedSampler)


class DIKI(Adapter):
    """Learns a task beside a frozen encoder, which goes on answering what does not look like the task.

    In the first layers, each query also attends to a few keys of the task, by a softmax of its own; what
    comes of it is added before the layer's output projection. Values start at zero, so the model starts as it
    was. Before a task is learnt, a Gaussian is fitted to its features in the frozen model. In eval mode, a
    row goes by the task under whose Gaussian it is likeliest, with weight sigmoid(log-density / d - 1).

    For encoders of `transformers` such as ViT and BERT, and both of CLIP. One `fit` learns one task; the
    module carries the earlier ones, in its `state_dict` too. While it trains, the task is in force for all
    rows, rehearsed ones included.

    DIKI: Tang et al. 2024, arXiv:2407.05342.

    Args:
        task: Its name, by which `fit` goes on with it; by default it is numbered.
        layers: How many layers of an encoder get a branch, from the first; the first task decides.
        length: Keys per task and layer; likewise.
        calibrated: Whether the weight is 0.5 where the density is lower than that of 95 % of the task's own
            samples, and 0.95 where it is their median, instead of by the formula above.
        vote: Whether all rows of a batch go by the task that most of them are closest to, as in the authors'
            evaluation, where batches are of one task each.
        speed: How many times as fast as other weights keys and values are learnt with Adam and its kin; with
            plain SGD, the square of it.
        heads: Names of submodules that are trained in full, such as a new head; they are in force for all
            rows. None for the last linear layer.
        seed: Of the keys.

    Attributes:
        pools: What was put into the module, since `setup`.
        forwards: Sample-forwards made for the Gaussian; compute units do not count them.

    Raises:
        ValueError: If a number is below 1; at the start of `fit`, if the module has no encoder that fits.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[DIKI("birds")], logger=False, enable_checkpointing=False)
    """

    def __init__(  # noqa: PLR0913 -- each of its own
        self,
        task: str | None = None,
        *,
        layers: int = 8,
        length: int = 8,
        calibrated: bool = False,
        vote: bool = False,
        speed: float = 1.0,
        heads: Sequence[str] | None = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_counts("The default is 8.", layers=layers, length=length)
        check_whole(seed=seed)
        check_range("(0, inf)", "The default is 1.", speed=speed)
        self.task, self.layers, self.length, self.speed = task, layers, length, speed
        self.calibrated, self.vote, self.seed = calibrated, vote, seed
        # One name is a sequence too, of letters.
        self.heads = [heads] if isinstance(heads, str) else heads
        self.forwards = 0
        self.pools: TaskPools

    @override
    def inject(self, module: LightningModule) -> Collection[nn.Parameter]:
        pools = getattr(module, "mixcd_diki", None)
        if pools is None:
            pools = TaskPools(module, layers=self.layers, length=self.length)
            module.mixcd_diki = pools.to(module.device)
        assert isinstance(pools, TaskPools)  # noqa: S101 -- nobody else uses the name
        self.pools = pools
        pools.vote, pools.calibrated = self.vote, self.calibrated
        return [*pools.parameters(), *self._in_full(find_heads(module, self.heads).values())]

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.pools.train()
            name = self.task or f"task {len(self.pools.tasks)}"
            self.pools.begin(name, seed=self.seed, speed=self.speed)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.pools.needs_features:
            self.pools.fit(torch.cat([*self._features(trainer, pl_module)]))

    def _features(self, trainer: Trainer, module: LightningModule) -> Iterator[Tensor]:
        way = Transfer(trainer, module, seed=self.seed)
        way.begin()
        # The user's own step: nobody else is to see these rows.
        step = MethodType(type(module).training_step, module)
        with seeded(self.seed), cuda_states_kept(), quiet(module):
            for number, batch in enumerate(_in_order(trainer.train_dataloader)):
                with seeded(stream_key(self.seed, number)), way.precision():
                    moved = way.whole(batch)
                    yield self.pools.features_of(partial(call_step, step, moved, 0))
                self.forwards += n_rows(moved)

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.release()


def _in_order(loader: Any) -> DataLoader[Any]:  # noqa: ANN401 -- whatever the trainer was given
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, DistributedSamplerWrapper):
        # The user's, that Lightning shares out.
        sampler = sampler.dataset._sampler  # type: ignore[attr-defined]  # noqa: SLF001
    rows = sorted(sampler.indices) if isinstance(sampler, SubsetRandomSampler) else None
    counted = isinstance(loader, DataLoader) and hasattr(loader.dataset, "__len__")
    known = counted and (rows or isinstance(sampler, OF_ALL) or isinstance(loader.dataset, IterableDataset))
    if not known or loader.batch_size is None:
        raise TypeError(
            "DIKI needs one `DataLoader` of samples that can be counted, with a `batch_size` and a sampler "
            "that takes them all or is a `SubsetRandomSampler`, got "
            f"{type(loader).__name__} with {type(sampler).__name__}. "
            "Fit the Gaussian in `on_fit_start`: `callback.pools.fit(features)`."
        )
    settings = {"batch_size": loader.batch_size, "collate_fn": loader.collate_fn}
    return DataLoader(loader.dataset, sampler=rows, **settings)
