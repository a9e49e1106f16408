"""What may be rehearsed, and how its rows are fetched."""

from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch.utils.data import DataLoader, IterableDataset

from lightning_mixcd.data.streams import Streams
from lightning_mixcd.data.vocabularies import tokenizer_of
from lightning_mixcd.errors import check_counts, check_whole
from lightning_mixcd.types import AnyDataset

__all__ = ["Pool", "as_pool"]


@dataclass(frozen=True)
class Pool:
    """The pretrain samples that may be rehearsed, with the settings of their loader.

    A sample's position in `dataset` is its identity: the order must not change between recording the ledger
    and finetuning.

    Args:
        dataset: Map-style dataset of N samples whose batches have the structure of the finetune batches; or
            `Streams`, whose samples have no index.
        collate_fn: Makes a batch of samples, as in `torch.utils.data.DataLoader`.
        num_workers: Loader workers that fetch rows while the model trains; 0 fetches in the training process,
            where torch's own collate function makes the rows of half a lag at once.
        lag: Draws between learning something and drawing by it. A run does not depend on the number of
            workers or on timing, because their queue stays within half of it; at least twice `num_workers`.
        batch_size: Samples per forward where the model is looked at beside training: for a ledger, for an
            oracle. Fewer take less memory, and sequences of varying length less padding.
        random: Whether fetching a sample or collating a batch draws random numbers, as augmentation does.
            They are then seeded by the draw, which takes some 0.1 ms. None finds out from a few samples;
            `Streams` cannot be tried out, so it counts as yes for these.
        pad_values: Fill values by batch key, where sequences of the two sides differ in length. Those of the
            usual keys of Hugging Face batches are known where these are rows x length; that of `input_ids`
            only where `collate_fn` holds a tokenizer, which pads on the right.
        unreadable: What to do where the dataset raises an error for a drawn sample: "raise" stops with its
            index; "skip" warns once and rehearses another sample in its place, of the same draw if any can
            be read, else of those drawn with it. A ledger and `Oracle` need every sample: they stop.

    Raises:
        TypeError: If the dataset has no length, or is an `IterableDataset`, a mapping or a loader; or another
            argument is of another kind.
        ValueError: If the dataset is empty, a number is out of range, or `unreadable` is no known word.

    Example:
        >>> Pool(range(100), num_workers=2).prefetch_factor
        2
    """

    dataset: AnyDataset
    collate_fn: Callable[[list[Any]], Any] | None = None
    num_workers: int = 0
    lag: int = 8
    batch_size: int = 64
    random: bool | None = None
    pad_values: Mapping[str, float] | None = None
    unreadable: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        if isinstance(self.dataset, Streams) and self.unreadable == "skip":
            raise ValueError(
                '`unreadable` must be "raise" for `Streams`, got "skip". Let the streams pass over what '
                "they cannot read."
            )
        if isinstance(self.dataset, DataLoader):
            raise TypeError(
                "`pool` must be a dataset, got a DataLoader. Give what it loads, and how: "
                "Pool(loader.dataset, collate_fn=loader.collate_fn)."
            )
        if isinstance(self.dataset, IterableDataset) or not isinstance(self.dataset, Sized):
            raise TypeError(
                f"`pool` must be a map-style dataset with a length, got {type(self.dataset).__name__}. "
                "Rehearsal picks samples by index. Give what can only be streamed as one stream per bin: "
                'Pool(Streams({"news": ..., "wiki": ...})).'
            )
        if isinstance(self.dataset, str | Mapping):
            raise TypeError(
                f"`pool` must give samples by index, got a {type(self.dataset).__name__}. Of several splits "
                'give one: Pool(splits["train"]).'
            )
        if self.collate_fn is not None and not callable(self.collate_fn):
            raise TypeError(
                f"`collate_fn` must be a function of some samples, got {self.collate_fn!r}. Leave it out "
                "for torch's own."
            )
        if len(self.dataset) == 0:
            raise ValueError("`pool` must hold at least one sample, got none.")
        check_whole(num_workers=self.num_workers, lag=self.lag)
        if self.num_workers < 0 or self.lag < 2 * self.num_workers:
            raise ValueError(
                f"`num_workers` must be between 0 and half of `lag` ({self.lag}), got {self.num_workers}. "
                "Raise `lag`, so that it covers every draw waiting in a worker's queue, or use fewer workers."
            )
        check_counts("The default is 64.", batch_size=self.batch_size)
        if self.unreadable not in {"raise", "skip"}:
            raise ValueError(
                f'`unreadable` must be "raise" or "skip", got {self.unreadable!r}. Pass one of them.'
            )

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    @cached_property
    def known_pad_values(self) -> Mapping[str, float]:
        """The given `pad_values`, and what `collate_fn` and its tokenizer pad with."""
        tokenizer = tokenizer_of(self)
        right = getattr(tokenizer, "padding_side", None) == "right"
        held = {
            "input_ids": getattr(tokenizer, "pad_token_id", None) if right else None,
            "labels": getattr(self.collate_fn, "label_pad_token_id", None),
        }
        known = {key: value for key, value in held.items() if value is not None}
        return {**known, **(self.pad_values or {})}

    @cached_property
    def round(self) -> int:
        """Draws that are made at once, and batches after which the strategy learns: half the lag."""
        return max(1, self.lag // 2)

    @property
    def prefetch_factor(self) -> int | None:
        """Batches that each worker holds ready: together at most half the lag."""
        return self.lag // 2 // self.num_workers if self.num_workers else None


def as_pool(samples: Pool | AnyDataset) -> Pool:
    """Return a pool as it is, and a dataset as the pool of its samples.

    Args:
        samples: Either.

    Returns:
        The pool.
    """
    return samples if isinstance(samples, Pool) else Pool(samples)
