"""Two text classification tasks on frozen sentence embeddings."""

from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from lightning_mixcd.tasks.embedding import CACHE_DIR, embed, packaged_encoder
from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.tensor_data import TensorDataModule
from lightning_mixcd.tasks.texts import TextTask, joint_labels

__all__ = ["embedded_text_pairing"]


def embedded_text_pairing(
    prior: TextTask,
    new: TextTask,
    *,
    encoder: str | None = None,
    batch_size: int = 64,
    cache_dir: str | Path = CACHE_DIR,
) -> Pairing:
    """Classify texts by their sentence embeddings: one task, then another in the same space of labels.

    The encoder stays frozen, so texts are embedded once; a sample is `(embedding, class)`. `mlp` fits.

    Args:
        prior: The earlier task. Its `columns` come along for partitions.
        new: The task to finetune on.
        encoder: Sentence encoder, see `embed`; by default the one of the extra `bench`.
        batch_size: Samples per batch, in both tasks.
        cache_dir: Where embeddings are kept.

    Returns:
        The pairing.
    """
    encoder = encoder or packaged_encoder()
    splits = [task.load(name) for task in (prior, new) for name in (task.train, task.val)]
    labels = joint_labels([split.labels for split in splits])
    datasets = []
    for split, classes in zip(splits, labels, strict=True):
        vectors = embed(split.texts, encoder, cache_dir=cache_dir)
        datasets.append(TensorDataset(torch.from_numpy(vectors).float(), torch.from_numpy(classes)))
    first, second = (TensorDataModule(*datasets[k : k + 2], batch_size=batch_size) for k in (0, 2))
    return Pairing(first, second, first.train, first.val_dataloader(), splits[0].columns)
