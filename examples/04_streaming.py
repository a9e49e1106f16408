"""Rehearsal from a pool that can only be streamed: `datasets` of Hugging Face over Parquet shards.

The base model reads digits. Its pretrain samples lie in shards, sorted by source: digits with round strokes,
and digits without. What the base model had right is written beside each sample, once. The new task is digits
turned by 90 degrees. Each source is a stream, and mix-cd learns how much of it is being lost. Run it from
anywhere: `python 04_streaming.py`.
"""

import copy
import logging
import tempfile
from pathlib import Path

import torch
from datasets import Dataset, IterableDataset, disable_progress_bars
from lightning.pytorch import Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset

from lightning_mixcd import MixCD, Pool, RehearsalCallback, Streams
from lightning_mixcd.tasks import Classifier, Digits, mlp

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no greeting from every Trainer
disable_progress_bars()

SETTINGS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
SOURCES = {"round": [0, 3, 6, 8, 9], "straight": [1, 2, 4, 5, 7]}
N_SHARDS = 4


def right(model: Classifier, data: TensorDataset) -> torch.Tensor:
    """Say which samples the model gets right."""
    images, labels = data.tensors
    with torch.no_grad():
        return model(images).argmax(dim=1) == labels


def write_shards(folder: str, base: Classifier, data: TensorDataset) -> None:
    """Write the pretrain samples as they might lie on a file server, with what the base model had right."""
    images, labels = data.tensors
    correct = right(base, data)
    for source, digits in SOURCES.items():
        rows = torch.isin(labels, torch.tensor(digits))
        columns = {"image": images[rows], "label": labels[rows], "base_correct": correct[rows]}
        dataset = Dataset.from_dict({name: column.tolist() for name, column in columns.items()})
        for i in range(N_SHARDS):
            dataset.shard(N_SHARDS, i, contiguous=True).to_parquet(f"{folder}/{source}-{i}.parquet")


def stream(folder: str, source: str) -> IterableDataset:
    """Open a source. Nothing is read yet, and never more than is rehearsed."""
    shards = sorted(map(str, Path(folder).glob(f"{source}-*.parquet")))
    return IterableDataset.from_parquet(shards).with_format("torch")


def together(samples: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
    """Make a batch of the structure that finetune batches have."""
    return [torch.stack([sample[key] for sample in samples]) for key in ("image", "label")]


def loaders(train: TensorDataset, val: TensorDataset) -> tuple[DataLoader, DataLoader]:
    """Make the loaders of a task."""
    return DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=600)


def finetune(base: Classifier, digits: Digits, *callbacks: RehearsalCallback) -> Classifier:
    """Finetune a copy of the base model on the new task."""
    seed_everything(0, verbose=False)
    model = copy.deepcopy(base)
    trainer = Trainer(max_epochs=15, callbacks=list(callbacks), **SETTINGS)
    trainer.fit(model, *loaders(digits.new_train, digits.new_test))
    return model


if __name__ == "__main__":
    digits = Digits.load(shift="rot90")

    seed_everything(0, verbose=False)
    base = mlp(n_inputs=64, n_classes=10)
    Trainer(max_epochs=10, **SETTINGS).fit(base, *loaders(digits.prior_train, digits.prior_test))

    with tempfile.TemporaryDirectory() as folder:
        write_shards(folder, base, digits.prior_train)
        streams = Streams({source: stream(folder, source) for source in SOURCES}, base_correct="base_correct")
        rehearsal = RehearsalCallback(MixCD(), pool=Pool(streams, collate_fn=together), mix_ratio=0.25)
        models = {
            "base model": base,
            "finetuned": finetune(base, digits),
            "finetuned with rehearsal": finetune(base, digits, rehearsal),
        }

    for name, model in models.items():
        prior = right(model, digits.prior_test).float().mean()
        new = right(model, digits.new_test).float().mean()
        print(f"{name:>24}: prior task {prior:.1%}, new task {new:.1%}")
    rates = rehearsal.strategy.estimator.rates().tolist()
    print("damage rates:", ", ".join(f"{s} {rate:.1%}" for s, rate in zip(SOURCES, rates, strict=True)))
