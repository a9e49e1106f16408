"""Text classification tasks on frozen sentence embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from lightning_mixcd.tasks.embedding import CACHE_DIR, embed, packaged_encoder
from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.tensor_data import TensorDataModule
from lightning_mixcd.tasks.texts import TextTask, joint_labels, own_labels

__all__ = ["EmbeddedTexts", "embedded_text_pairing", "embedded_text_tasks"]


class EmbeddedTexts(TensorDataset):
    """Sentence embeddings and classes; and the sentences, for whoever wants to show them.

    Args:
        texts: N sentences.
        vectors: Their embeddings, `(N, d)`.
        classes: Their classes, int64, `(N,)`.
    """

    def __init__(self, texts: Sequence[str], vectors: Tensor, classes: Tensor) -> None:
        super().__init__(vectors, classes)
        self.texts = texts


def embedded_text_pairing(
    prior: TextTask,
    new: TextTask,
    *,
    encoder: str | None = None,
    shared_labels: bool = True,
    batch_size: int = 64,
    cache_dir: str | Path = CACHE_DIR,
) -> Pairing:
    """Classify texts by their sentence embeddings: one task, then another.

    The encoder stays frozen, so texts are embedded once; a sample is `(embedding, class)`. `mlp` fits, or
    `TwoHeads` where labels are not shared.

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
    return Pairing(first, second, first.train, first.val_dataloader(), prior.load(prior.train).columns)


def embedded_text_tasks(
    tasks: Mapping[str, TextTask],
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
    splits = [task.load(name) for task in tasks.values() for name in (task.train, task.val)]
    labels = joint_labels([split.labels for split in splits])
    if not shared_labels:
        labels = [part for k in range(0, len(labels), 2) for part in own_labels(labels[k : k + 2])]
    datasets = []
    for split, classes in zip(splits, labels, strict=True):
        vectors = torch.from_numpy(embed(split.texts, encoder, cache_dir=cache_dir)).float()
        datasets.append(EmbeddedTexts(split.texts, vectors, torch.from_numpy(classes)))
    return {
        name: TensorDataModule(*datasets[2 * k : 2 * k + 2], batch_size=batch_size)
        for k, name in enumerate(tasks)
    }
