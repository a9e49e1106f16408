"""A datamodule for both tasks."""

import copy
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import CombinedLoader, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lightning_mixcd.data.order import ResumableOrder, resumable
from lightning_mixcd.data.pool import Pool, as_pool
from lightning_mixcd.data.ration import Ration
from lightning_mixcd.errors import check_whole
from lightning_mixcd.ledger import Ledger
from lightning_mixcd.types import AnyDataset

__all__ = ["RehearsalDataModule"]

HOOKS = (
    "on_before_batch_transfer",
    "transfer_batch_to_device",
    "on_after_batch_transfer",
    "val_dataloader",
    "test_dataloader",
    "predict_dataloader",
)
# Where Lightning keeps what `save_hyperparameters` has saved.
HYPERPARAMETERS = ("_hparams", "_hparams_initial", "_hparams_name", "_log_hyperparams")


class RehearsalDataModule(LightningDataModule):
    """Wraps the datamodule of the new task and adds what belongs to the earlier one.

    The mixing itself stays in `RehearsalCallback`, which takes pool, ledger and mix ratio from here; a run is
    the same, bit for bit, as with these given to the callback. What this adds: validation on the prior task
    beside the new one, and, on request, a finetune order that resumes exactly in mid-epoch.

    Args:
        finetune: The new task's datamodule; its loaders, batches and transfer hooks are used as they are, its
            hyperparameters are logged and saved. A module finds it at `trainer.datamodule.finetune`.
        pool: The samples that may be rehearsed.
        mix_ratio: Rehearsed samples per finetune sample, in (0, 16].
        ledger: The base model's record of the pool, or its folder; recorded at the start of `fit` if there is
            none in the folder yet.
        prior_val: Validation loader of the prior task. It comes after the new task's loaders, so that
            `validation_step` gets it with the highest `dataloader_idx`. Like any loader it takes a seed from
            the global random state; with `ExactResume` validation leaves no trace in training.
        order_seed: If given, order and random augmentation of the finetune samples depend on this seed and
            the epoch alone, not on workers or the global random state, and a run that is resumed in mid-epoch
            goes on with the very next sample. Otherwise the loader stays as it is.

    Raises:
        TypeError: If `finetune` is no datamodule, `prior_val` a dataset, or a number something else.
        ValueError: If `mix_ratio` is out of range.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> import torch
        >>> class NewTask(LightningDataModule):
        ...     def train_dataloader(self):
        ...         return DataLoader(TensorDataset(torch.zeros(8, 2)), batch_size=4)
        >>> data = RehearsalDataModule(NewTask(), pool=TensorDataset(torch.ones(20, 2)), mix_ratio=0.5)
        >>> len(data.pool)
        20
    """

    def __init__(
        self,
        finetune: LightningDataModule,
        pool: Pool | AnyDataset,
        *,
        mix_ratio: float = 0.25,
        ledger: Ledger | str | Path | None = None,
        prior_val: DataLoader[Any] | None = None,
        order_seed: int | None = None,
    ) -> None:
        if not isinstance(finetune, LightningDataModule):
            raise TypeError(
                f"`finetune` must be a LightningDataModule, got {type(finetune).__name__}. Loaders need "
                "none: fit with them, and give `pool`, `ledger` and `mix_ratio` to `RehearsalCallback`."
            )
        if isinstance(prior_val, Dataset):
            raise TypeError(
                f"`prior_val` must be a loader, got the dataset {type(prior_val).__name__}. Pass for example "
                "DataLoader(dataset, batch_size=256)."
            )
        Ration(mix_ratio)  # refuses what is out of range
        if order_seed is not None:
            check_whole(order_seed=order_seed)
        super().__init__()
        self.finetune = finetune
        self.pool = as_pool(pool)
        self.mix_ratio, self.ledger = mix_ratio, ledger
        self.prior_val = prior_val
        self.order_seed = None if order_seed is None else int(order_seed)
        self._place: dict[str, int] | None = None  # in the finetune order, of the run that is resumed
        self.in_use = False  # whether a `RehearsalCallback` has taken pool, ledger and mix ratio
        self.prepare_data_per_node = finetune.prepare_data_per_node
        self.allow_zero_length_dataloader_with_multiple_devices = (
            finetune.allow_zero_length_dataloader_with_multiple_devices
        )
        for name in HOOKS:
            # Where the datamodule does not override one of these, Lightning asks the module.
            if is_overridden(name, finetune):
                setattr(self, name, getattr(finetune, name))
        for name in HYPERPARAMETERS:
            if hasattr(finetune, name):
                setattr(self, name, copy.deepcopy(getattr(finetune, name)))
        if prior_val is not None:
            self.val_dataloader = self._both_val_dataloaders  # type: ignore[method-assign]

    @override
    def prepare_data(self) -> None:
        self.finetune.trainer = self.trainer
        self.finetune.prepare_data()

    @override
    def setup(self, stage: str) -> None:
        # Not every process prepares data.
        self.finetune.trainer = self.trainer
        self.in_use = False  # callbacks are set up after this
        self._place = None  # a state is loaded after this
        self.finetune.setup(stage)

    @override
    def teardown(self, stage: str) -> None:
        self.finetune.teardown(stage)

    @override
    def on_exception(self, exception: BaseException) -> None:
        self.finetune.on_exception(exception)

    @override
    def train_dataloader(self) -> Any:
        if self.trainer is not None and not self.in_use:
            rank_zero_warn(
                "`RehearsalDataModule` rehearses nothing by itself, and the trainer has no "
                "`RehearsalCallback`. Add one: Trainer(callbacks=[RehearsalCallback(MixCD())])."
            )
        loader = self.finetune.train_dataloader()
        if self.order_seed is None:
            return loader
        assert self.trainer is not None  # noqa: S101 -- Lightning sets it before it asks for loaders
        return resumable(loader, self.trainer, seed=self.order_seed, place=self._place)

    def _both_val_dataloaders(self) -> list[Any]:
        if not is_overridden("val_dataloader", self.finetune):
            return [self.prior_val]
        loaders = self.finetune.val_dataloader()
        if isinstance(loaders, CombinedLoader):
            if (mode := loaders._mode) != "sequential":  # noqa: SLF001 -- nobody else tells
                raise TypeError(
                    "`val_dataloader` must give loaders one after the other beside `prior_val`, got a "
                    f"CombinedLoader of mode {mode!r}. Take CombinedLoader(..., 'sequential'), or leave "
                    "`prior_val` out and combine its loader yourself."
                )
            loaders = loaders.flattened
        return [*(loaders if isinstance(loaders, list | tuple) else [loaders]), self.prior_val]

    @override
    def state_dict(self) -> dict[str, Any]:
        # Lightning neither saves nor loads an empty state.
        state = self.finetune.state_dict()
        saved: dict[str, Any] = {"finetune": state} if state else {}
        if self.order_seed is not None:
            saved["order_seed"] = self.order_seed
            order = getattr(self.trainer and self.trainer.train_dataloader, "sampler", None)
            if isinstance(order, ResumableOrder):
                saved["order"] = order.place()
        return saved

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        begun = state_dict.get("order_seed", self.order_seed)
        # Validation, test and predict restore datamodules too.
        if begun != self.order_seed and self.trainer is not None and self.trainer.state.fn == "fit":
            raise ValueError(
                f"`order_seed` must be that of the run that is resumed, {begun}, got {self.order_seed}. The "
                "rest of an epoch in another order repeats samples and leaves out others. Pass "
                f"order_seed={begun}."
            )
        self._place = state_dict.get("order")
        if "finetune" in state_dict:
            self.finetune.load_state_dict(state_dict["finetune"])
