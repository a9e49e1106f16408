"""A ledger at no extra pass: recorded while the base model is trained."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from typing_extensions import override

from lightning_mixcd.capture import Readout
from lightning_mixcd.data.worker import in_worker
from lightning_mixcd.errors import LedgerError
from lightning_mixcd.kept import Keep, check_keep, columns_of, n_coordinates, values_of
from lightning_mixcd.ledger import Ledger, LedgerWriter, fingerprint_model, fingerprint_pool
from lightning_mixcd.ledger.recording import check_usable
from lightning_mixcd.wiring import BatchHook

__all__ = ["IndexedDataset", "LedgerCallback"]


class _Indexed(NamedTuple):
    batch: Any
    places: Tensor  # in the dataset


class IndexedDataset(Dataset[Any]):
    """A dataset whose batches tell which samples they hold.

    Train on `IndexedDataset(pool).loader(...)` with a `LedgerCallback`, which takes the indices out again:
    `training_step` sees the batches of `pool`.

    Args:
        dataset: Map-style dataset of N samples.
        collate_fn: Makes a batch of its samples; torch's default if not given.

    Example:
        >>> batch, index = next(iter(IndexedDataset(["a", "b", "c"]).loader(batch_size=2)))
        >>> batch, index.tolist()
        (['a', 'b'], [0, 1])
    """

    def __init__(
        self, dataset: Dataset[Any], *, collate_fn: Callable[[list[Any]], Any] = default_collate
    ) -> None:
        self.dataset, self.collate_fn = dataset, collate_fn

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.dataset[index], index

    def collate(self, samples: list[tuple[Any, int]]) -> tuple[Any, Tensor]:
        """Make a batch.

        Args:
            samples: Samples with their indices.

        Returns:
            The batch of the samples, and the indices, int64, `(B,)`.
        """
        plain, index = zip(*samples, strict=True)
        return _Indexed(self.collate_fn(list(plain)), torch.tensor(index))

    def loader(self, **settings: Any) -> DataLoader[Any]:  # noqa: ANN401 -- typed by DataLoader
        """Make a loader.

        Args:
            **settings: Of `torch.utils.data.DataLoader`, apart from dataset and collate function.

        Returns:
            The loader; it must give every sample once per epoch: `drop_last` would leave some unrecorded.
        """
        return DataLoader(self, collate_fn=self.collate, **settings)


class LedgerCallback(Callback):
    """Records the ledger during the last epoch of pretraining, from the forwards that are made anyway.

    What is recorded is each sample's correctness and loss when it was trained on last: in train mode, and by
    a model that still changed a little afterwards. `record_ledger` is exact and costs a pass. Training that
    ends before its last epoch, for example by early stopping, or in whose last epoch samples are left out or
    have a loss that is not finite, leaves no ledger, and a warning says so. Outputs are also read at the
    first batch, to say at once if they cannot be. With `fast_dev_run` nothing is recorded. A callback that
    puts other weights in at the end of training, as one that averages them does, must come before this one.

    Args:
        path: Folder of the ledger.
        dataset: What the training loader was made of.
        readout: Where correctness is to be found in what `training_step` returns.
        keep: What else to keep of each forward, as for `record_ledger`: "features", "logits".

    Raises:
        CaptureError: At the first batch, if correctness and losses cannot be read.
        LedgerError: At the start of training, if an epoch would leave samples out, the loader was not made by
            `dataset.loader`, or there is a finished ledger at `path`.
        TypeError: If `dataset` is no `IndexedDataset`.
        ValueError: If `keep` holds something else, or features as coordinates.

    Example:
        >>> data = IndexedDataset(range(10))
        >>> callback = LedgerCallback("base.ledger", data)
        >>> loader = data.loader(batch_size=5, shuffle=True)
    """

    def __init__(
        self,
        path: str | Path,
        dataset: IndexedDataset,
        *,
        readout: Readout | None = None,
        keep: Keep = (),
    ) -> None:
        if not isinstance(dataset, IndexedDataset):
            raise TypeError(
                f"`dataset` must be an `IndexedDataset`, got {type(dataset).__name__}. Wrap it, "
                "IndexedDataset(dataset), and train on what its `loader(...)` returns."
            )
        check_keep(keep)
        if (k := n_coordinates(keep)) is not None:
            raise ValueError(
                f"`keep` must ask for features as they are, got {k} coordinates: their directions would have "
                "to be known before the last epoch. Use `record_ledger` afterwards."
            )
        self.path, self.dataset, self.keep = Path(path), dataset, keep
        self.readout = readout or Readout()
        self.ledger: Ledger | None = None
        self._writer: LedgerWriter | None = None
        self._hook: BatchHook | None = None
        self._listener: ExitStack | None = None

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not trainer.max_epochs or trainer.max_epochs < 1:
            raise ValueError(
                f"`max_epochs` must be set, so that `LedgerCallback` knows which epoch is the last, got "
                f"{trainer.max_epochs}. Pass Trainer(max_epochs=...), or use `record_ledger` afterwards."
            )
        if trainer.world_size > 1:
            raise ValueError(
                f"`LedgerCallback` records on one process, got {trainer.world_size}. Use `record_ledger` "
                "afterwards."
            )
        self._end()
        self._records = not trainer.fast_dev_run  # type: ignore[attr-defined]
        self._readable = False  # whether outputs have been read
        self._hook = BatchHook(trainer, pl_module, self._take_index, name="on_before_batch_transfer")

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._listener = self.readout.attach(pl_module, with_features="features" in self.keep)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loader: Any = trainer.train_dataloader
        if getattr(loader, "dataset", None) is not self.dataset:
            raise LedgerError(
                "`dataset` must be the `IndexedDataset` that the training loader was made of, got another. "
                "Train on `dataset.loader(...)` of the same object."
            )
        if loader.collate_fn != self.dataset.collate:
            raise LedgerError(
                "The training loader must collate with `dataset.collate`, which tells samples apart, got "
                f"{loader.collate_fn!r}. Train on `dataset.loader(...)`, and give your own function to "
                "IndexedDataset(..., collate_fn=...)."
            )
        check_usable(self.path)
        # A batch sampler of one's own need not say how many samples a batch has.
        per_batch = loader.batch_size or getattr(loader.batch_sampler, "batch_size", inf)
        seen, size = trainer.num_training_batches * per_batch, len(self.dataset)
        if seen < size and self._records:
            raise LedgerError(
                f"Every epoch must hold all {size} samples of the pool, got {seen:.0f}. Leave out "
                "`drop_last` and `limit_train_batches`, or use `record_ledger` afterwards."
            )

    def _take_index(self, batch: object) -> object:
        if not isinstance(batch, _Indexed):
            return batch  # a module's `example_input_array`, or what it is exported with
        self._index = batch.places
        return batch.batch

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        last = trainer.max_epochs is not None and trainer.current_epoch >= trainer.max_epochs - 1
        # Without outputs, automatic optimization has skipped the batch, as the user's module asked.
        skipped = not outputs and pl_module.automatic_optimization
        if skipped or (self._readable and not last):
            return
        wanted = {f"with_{name}": True for name in ("loss", *self.keep)}
        reading = self.readout.read(outputs, batch, **wanted)
        self._readable = True
        # A `RehearsalCallback` may have appended rows of another pool.
        n = len(self._index)
        values = {name: rows[:n] for name, rows in values_of(reading, self.keep).items()}
        if not (self._records and last):
            return
        if self._writer is None:
            workers = getattr(trainer.train_dataloader, "num_workers", 0)
            pool = in_worker(partial(fingerprint_pool, self.dataset.dataset), workers)
            columns = columns_of(reading, self.keep)
            self._writer = LedgerWriter(self.path, len(self.dataset), columns=columns, pool=pool, model=None)
            if trainer.ckpt_path is None:
                self._writer.forget()  # rows of another training, which was interrupted, are of another model
        try:
            self._writer.write(self._index, **values)
        except ValueError as error:
            self._warn(str(error))

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._records:
            return
        if self._writer is None:
            self._warn(f"training ended before its last epoch ({trainer.max_epochs}).")
        elif (recorded := self._writer.n_recorded) < (size := len(self.dataset)):
            self._warn(f"the last epoch must hold all {size} samples of the pool, got {recorded}.")
        else:
            self.ledger = self._writer.finish(model=fingerprint_model(pl_module), forwards=0)
            self._writer = None

    # An error would take what comes behind `fit` with it, such as saving what was trained.
    def _warn(self, reason: str) -> None:
        self._records = False
        where = "" if self._writer is None else f" and another folder than `{self.path}`, which is unfinished"
        warnings.warn(
            f"No ledger was recorded: {reason} Use `record_ledger` with the trained module{where}.",
            stacklevel=3,
        )

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # A run resumed from here does not see these samples again.
        if self._writer is not None:
            self._writer.flush()

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end()

    def _end(self) -> None:
        if self._hook is not None:
            self._hook.undo()
        if self._listener is not None:
            self._listener.close()
        if self._writer is not None:
            self._writer.flush()
        self._hook = self._listener = self._writer = None
