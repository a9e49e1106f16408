"""Text classification tasks on frozen sentence embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lightning_mixcd.tasks.embedding import CACHE_DIR, embed, packaged_encoder
from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.rows import TextRows
from lightning_mixcd.tasks.tensor_data import TensorDataModule
from lightning_mixcd.tasks.texts import joint_labels, own_labels

__all__ = ["EmbeddedTexts", "embedded_text_pairing", "embedded_text_tasks", "pair_vectors"]


# Columns that each task needs.
NEEDED = ("text", "label")


class EmbeddedTexts(TensorDataset):
    """Sentence embeddings and classes; and the sentences, for whoever wants to show them.

    Args:
        texts: N sentences, or N pairs of them as `"one / other"`.
        vectors: Their embeddings, `(N, d)`.
        classes: Their classes, int64, `(N,)`.
    """

    def __init__(self, texts: Sequence[str], vectors: Tensor, classes: Tensor) -> None:
        super().__init__(vectors, classes)
        self.texts = texts


def pair_vectors(one: Tensor, other: Tensor) -> Tensor:
    """Bring the embeddings of two texts into one vector, for a classifier of pairs.

    Both, their distance in each coordinate, and their product: features of InferSent (Conneau et al. 2017,
    arXiv:1705.02364, section 3).

    Args:
        one: Embeddings of the first texts, `(N, d)`.
        other: Embeddings of the second texts, `(N, d)`.

    Returns:
        `(N, 4d)`.

    Example:
        >>> pair_vectors(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])).tolist()
        [[1.0, 2.0, 3.0, 1.0, 2.0, 1.0, 3.0, 2.0]]
    """
    return torch.cat([one, other, (one - other).abs(), one * other], dim=1)


def embedded_text_pairing(
    prior: TextRows,
    new: TextRows,
    *,
    encoder: str | None = None,
    shared_labels: bool = True,
    batch_size: int = 64,
    cache_dir: str | Path = CACHE_DIR,
) -> Pairing:
    """Classify texts, or pairs of texts, by their sentence embeddings: one task, then another.

    The encoder stays frozen, so texts are embedded once; a sample is `(embedding, class)`. `mlp` fits, or
    `TwoHeads` where labels are not shared. Tasks need the columns `text` and `label`, by these names or by
    `names`. Where `names` has `text_pair` too, a sample's vector is `pair_vectors` of both texts.

    Args:
        prior: The earlier task. Its `columns` come along for partitions.
        new: The task to finetune on.
        encoder: Sentence encoder, see `embed`; by default the one of the extra `bench`.
        shared_labels: Whether both tasks have one space of labels; otherwise each numbers its classes from 0.
        batch_size: Samples per batch, in both tasks.
        cache_dir: Where embeddings are kept.

    Returns:
        The pairing.
    """
    tasks = {"prior": prior, "new": new}
    first, second = embedded_text_tasks(
        tasks,
        encoder=encoder,
        shared_labels=shared_labels,
        batch_size=batch_size,
        cache_dir=cache_dir,
    ).values()
    columns = prior.kept(prior.load(prior.train, NEEDED))
    return Pairing(first, second, first.train, first.val_dataloader(), columns)


def embedded_text_tasks(
    tasks: Mapping[str, TextRows],
    *,
    encoder: str | None = None,
    shared_labels: bool = True,
    batch_size: int = 64,
    cache_dir: str | Path = CACHE_DIR,
) -> dict[str, TensorDataModule]:
    """Classify texts by their sentence embeddings: the tasks of a chain.

    Args:
        tasks: Name of each to where its texts are, in the order in which they are learnt.
        encoder: As for `embedded_text_pairing`.
        shared_labels: Whether all tasks have one space of labels; otherwise each numbers its classes from 0.
        batch_size: Samples per batch.
        cache_dir: Where embeddings are kept.

    Returns:
        The tasks by name; a sample is `(embedding, class)`.
    """
    encoder = encoder or packaged_encoder()
    splits = [task.load(name, NEEDED) for task in tasks.values() for name in (task.train, task.val)]
    labels = joint_labels([np.asarray(split["label"]) for split in splits])
    if not shared_labels:
        labels = [part for k in range(0, len(labels), 2) for part in own_labels(labels[k : k + 2])]
    datasets = []
    for split, classes in zip(splits, labels, strict=True):
        texts = [split[name] for name in ("text", "text_pair") if name in split]
        vectors = [torch.from_numpy(embed(part, encoder, cache_dir=cache_dir)).float() for part in texts]
        joined = vectors[0] if len(vectors) == 1 else pair_vectors(*vectors)
        shown = [" / ".join(parts) for parts in zip(*texts, strict=True)]
        datasets.append(EmbeddedTexts(shown, joined, torch.from_numpy(classes)))
    return {
        name: TensorDataModule(*datasets[2 * k : 2 * k + 2], batch_size=batch_size)
        for k, name in enumerate(tasks)
    }
