"""Two tasks whose samples are texts, tokenized and held in memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader
from typing_extensions import override

from lightning_mixcd.data import Pool
from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.tokenizers import check_lengths

__all__ = ["Sample", "TokenizedDataModule", "tokenized_pairing"]

Sample = dict[str, Any]  # token numbers and targets, not padded


class TokenizedDataModule(LightningDataModule):
    """Loaders of one task whose samples are lists of tokens; each batch is padded to its longest.

    Args:
        train: Samples to train on, in another order each epoch.
        val: Samples to validate on.
        collate_fn: Pads, such as `transformers.DataCollatorWithPadding`.
        batch_size: Samples per batch.
    """

    def __init__(
        self,
        train: Sequence[Sample],
        val: Sequence[Sample],
        collate_fn: Callable[[list[Sample]], Any],
        *,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        self.train, self.val, self.collate_fn, self.batch_size = train, val, collate_fn, batch_size

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.train, shuffle=True)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.val, shuffle=False)

    def _loader(self, samples: Any, *, shuffle: bool) -> DataLoader[Any]:  # noqa: ANN401 -- a list will do
        return DataLoader(samples, batch_size=self.batch_size, shuffle=shuffle, collate_fn=self.collate_fn)


def tokenized_pairing(
    splits: Sequence[Sequence[Sample]],
    tokenizer: Any,  # noqa: ANN401 -- of `transformers`
    collate_fn: Callable[[list[Sample]], Any],
    *,
    columns: Mapping[str, npt.NDArray[Any]],
    batch_size: int,
) -> Pairing:
    """Make a pairing of tokenized samples.

    Args:
        splits: The prior task's training and validation samples, then the new task's.
        tokenizer: What made them.
        collate_fn: Pads.
        columns: What else is known of the prior task's training samples.
        batch_size: Samples per batch.

    Returns:
        The pairing; its pool is padded as `collate_fn` pads.

    Raises:
        ValueError: If a sample is longer than the tokenizer's model can read.
    """
    for samples in splits:
        check_lengths(samples, tokenizer.model_max_length)
    prior, new = (
        TokenizedDataModule(splits[k], splits[k + 1], collate_fn, batch_size=batch_size) for k in (0, 2)
    )
    pool = Pool(
        splits[0],  # type: ignore[arg-type]  # a list is as good as a `Dataset`
        collate_fn=collate_fn,
        pad_values={"input_ids": tokenizer.pad_token_id},
    )
    return Pairing(prior, new, pool, prior.val_dataloader(), columns)
