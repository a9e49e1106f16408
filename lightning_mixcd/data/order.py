"""A finetune order that resumes exactly."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeGuard

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, SequentialSampler
from typing_extensions import override

from lightning_mixcd.data.pool_fetch import as_it_is
from lightning_mixcd.data.seeded import SeededFetch
from lightning_mixcd.functional.sampling import stream_key

__all__ = ["OrderedFetch", "ResumableOrder", "check_plain", "resumable", "shares"]


def shares(trainer: Trainer) -> tuple[int, int]:
    """Return among how many processes Lightning shares out the finetune data, and which of them this one is.

    Args:
        trainer: The trainer, after its processes have met.

    Returns:
        Both; processes that work on the same batch, as under tensor parallelism, are one.
    """
    given = trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
    return int(given["num_replicas"]), int(given["rank"])


class ResumableOrder(DistributedSampler[Any]):
    """The order of an epoch as a function of seed and epoch, begun where the trainer stands.

    A resumed Lightning run restarts a plain loader at its beginning, so that part of the epoch is seen twice
    and part never. This sampler reads epoch and position from the trainer's own count of finished batches.
    It is a `DistributedSampler`, which Lightning leaves alone, and divides the samples over ranks as such.

    A place in the order is given as `epoch * N + index`, with N the size of the dataset; `OrderedFetch` takes
    it apart.

    Args:
        dataset: The finetune samples.
        trainer: The trainer that counts.
        batch_size: Samples per batch on one rank.
        drop_last: Whether the loader drops a short last batch.
        seed: Seed of all orders.
        shuffle: Whether to shuffle.
        place: The `place` at which the run that is resumed stood; None if it is not known. Where that was
            amid an epoch with another number of batches, the next one is begun, with a warning.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        trainer: Trainer,
        *,
        batch_size: int,
        drop_last: bool = False,
        seed: int = 0,
        shuffle: bool = True,
        place: Mapping[str, int] | None = None,
    ) -> None:
        connector: Any = trainer._accelerator_connector  # noqa: SLF001 -- nobody else tells
        n_ranks, rank = shares(trainer) if connector.use_distributed_sampler else (1, 0)
        super().__init__(dataset, n_ranks, rank, shuffle=shuffle)
        self._trainer, self._batch_size, self._run_seed = trainer, batch_size, seed
        whole, rest = divmod(len(self), batch_size)
        self._n_batches = whole + (rest > 0 and not drop_last)
        resumed, used = trainer.ckpt_path is not None, getattr(trainer.train_dataloader, "sampler", None)
        if isinstance(used, ResumableOrder):  # the trainer reloads its loader
            self._since = self._taken_over(used.place(), reloaded=True)
        elif resumed and place is not None:
            self._since = self._taken_over(place, reloaded=False)
        else:  # a trainer that fits a second time goes on counting
            self._since = {"epoch": 0, "batch": 0, "finished": 0 if resumed else self._finished()}

    def _finished(self) -> int:
        progress: Any = self._trainer.fit_loop.epoch_loop.batch_progress
        return int(progress.total.processed)

    def batches_per_epoch(self) -> int:
        """Return how many batches the trainer will take of each epoch."""
        # Not `trainer.num_training_batches`: workers ask for their first samples before it is known.
        limit = self._trainer.limit_train_batches
        limited = min(self._n_batches, limit) if isinstance(limit, int) else int(self._n_batches * limit)
        return max(limited, 1)

    def place(self) -> dict[str, int]:
        """Return where the order stands, for one that is to go on with it.

        Returns:
            The `epoch`, its next `batch`, of how many `per_epoch`, and how many the trainer has `finished`.
        """
        finished, per_epoch = self._finished(), self.batches_per_epoch()
        # Workers of a resumed run may ask for their first samples before the trainer's count is restored.
        since = max(0, finished - self._since["finished"])
        epochs, batch = divmod(self._since["batch"] + since, per_epoch)
        epoch = self._since["epoch"] + epochs
        return {"epoch": epoch, "batch": batch, "per_epoch": per_epoch, "finished": finished}

    def _taken_over(self, place: Mapping[str, int], *, reloaded: bool) -> dict[str, int]:
        before, now = place["per_epoch"], self.batches_per_epoch()
        if now == before or not place["batch"]:
            return {**place}
        if not reloaded:
            rank_zero_warn(
                f"`order_seed` goes on amid an epoch of {before} batches per process, got one of {now}: the "
                "rest of it is left out. To see every sample, resume with the same data, batch size and "
                "number of processes, or at the end of an epoch."
            )
        return {**place, "epoch": place["epoch"] + 1, "batch": 0}

    @override
    def __iter__(self) -> Iterator[Any]:
        place = self.place()
        epoch, taken = place["epoch"], place["batch"] * self._batch_size
        self.set_epoch(stream_key(self._run_seed, epoch) >> 1)
        size = len(self.dataset)  # type: ignore[arg-type]
        for index in islice(super().__iter__(), taken, None):
            yield epoch * size + index


class OrderedFetch(Dataset[Any]):
    """Fetches and collates the samples of a batch under a seed that follows from their place in the order.

    Random augmentation is then neither taken from the global random state nor dependent on what a worker
    fetched before, and a resumed run repeats it.

    Args:
        dataset: The finetune samples, N of them.
        collate_fn: Makes a batch of samples.
        seed: Seed of the run.

    Example:
        >>> OrderedFetch(["a", "b", "c"], seed=0).__getitems__([5, 3])
        ['c', 'a']
    """

    def __init__(
        self, dataset: Dataset[Any], collate_fn: Callable[[list[Any]], Any] | None = None, *, seed: int
    ) -> None:
        self.dataset = dataset
        self._fetch = SeededFetch(dataset, collate_fn, seed=seed)
        self.collate_fn = self._fetch.collate_fn

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitems__(self, places: list[int]) -> object:
        """Return a batch.

        Args:
            places: Positions of `ResumableOrder`; plain indices count as the first epoch's.

        Returns:
            The samples, in order and collated.
        """
        return self._fetch.__getitems__((places[0], [place % len(self) for place in places]))


def resumable(
    loader: DataLoader[Any], trainer: Trainer, *, seed: int = 0, place: Mapping[str, int] | None = None
) -> DataLoader[Any]:
    """Make the same loader with a `ResumableOrder`.

    Args:
        loader: A loader over a map-style dataset, shuffled or in sequence, with a batch size.
        trainer: The trainer that will use it.
        seed: Seed of the order and of random augmentation.
        place: The `place` of the order in the run that is resumed, if it is known.

    Returns:
        The new loader.

    Raises:
        TypeError: If the loader is of another kind.
    """
    check_plain(
        loader,
        "`order_seed`",
        "Leave `order_seed` out and use a loader that keeps its own state, such as torchdata's "
        "`StatefulDataLoader`.",
    )
    assert loader.batch_size is not None  # noqa: S101 -- a plain loader has one
    order = ResumableOrder(
        loader.dataset,
        trainer,
        batch_size=loader.batch_size,
        drop_last=loader.drop_last,
        seed=seed,
        shuffle=isinstance(loader.sampler, RandomSampler),
        place=place,
    )
    return DataLoader(
        OrderedFetch(loader.dataset, loader.collate_fn, seed=seed),
        batch_size=loader.batch_size,
        sampler=order,
        num_workers=loader.num_workers,
        collate_fn=as_it_is,
        pin_memory=loader.pin_memory,
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        # Without its own generator the loader would take a seed from the global one.
        generator=torch.Generator().manual_seed(stream_key(seed)),
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
    )


def check_plain(loader: object, user: str, remedy: str) -> DataLoader[Any]:
    """Refuse what does not give every sample of a dataset once, shuffled or in sequence.

    Args:
        loader: What a `train_dataloader` returned.
        user: Who needs it so, at the beginning of the error.
        remedy: The end of the error.

    Returns:
        The loader.

    Raises:
        TypeError: If it is of another kind.
    """
    if not _is_plain(loader):
        sampler = getattr(loader, "sampler", None)
        raise TypeError(
            f"{user} needs one `DataLoader` with `batch_size` that gives every sample once, shuffled or in "
            f"sequence, got {type(loader).__name__} with sampler {type(sampler).__name__}. {remedy}"
        )
    return loader


def _is_plain(loader: object) -> TypeGuard[DataLoader[Any]]:
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return False
    if type(loader).__iter__ is not DataLoader.__iter__:
        return False
    sampler = loader.sampler
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == len(loader.dataset)  # type: ignore[arg-type]
    return type(sampler) is SequentialSampler
