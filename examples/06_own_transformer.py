"""Rehearsal beside a Hugging Face classifier of your own: your module, your collator, one callback.

The prior task is to tell whether someone likes a film, the new task whether someone likes a tool. Some words
mean praise for one and blame for the other. Run it from anywhere: `python 06_own_transformer.py`. Its model
is small and starts from random weights; for a pretrained one pass `--model distilbert-base-uncased`.
"""

import argparse
import copy
import logging
import random
import tempfile

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
)

from lightning_mixcd import MixCD, Pool, RehearsalCallback

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no greeting from every Trainer

SETTINGS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
# Subjects, words of blame, words of praise.
FILMS = (["film", "plot", "scene"], ["predictable", "simple", "dull"], ["surprising", "loud", "moving"])
TOOLS = (["drill", "saw", "pump"], ["surprising", "loud", "weak"], ["predictable", "simple", "strong"])
TEMPLATES = ["the {} was {}", "i found the {} rather {}", "what a {} , so {} from the first minute"]


def sentences(task: tuple[list[str], list[str], list[str]], n: int, seed: int) -> list[tuple[str, int]]:
    """Make sentences with their labels: 1 for praise."""
    rng, (subjects, *words) = random.Random(seed), task
    labels = [rng.randrange(2) for _ in range(n)]
    return [
        (rng.choice(TEMPLATES).format(rng.choice(subjects), rng.choice(words[label])), label)
        for label in labels
    ]


class Reviewer(LightningModule):
    """An ordinary module around `AutoModelForSequenceClassification`; it knows nothing of rehearsal."""

    def __init__(self, network: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def training_step(self, batch, batch_idx):
        return self.network(**batch)  # loss and logits

    def test_step(self, batch, batch_idx):
        right = self.network(**batch).logits.argmax(dim=1) == batch["labels"]
        self.log("accuracy", right.float().mean(), batch_size=len(right))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def tiny() -> tuple[torch.nn.Module, PreTrainedTokenizerFast]:
    """Make a small model with random weights, and a tokenizer that knows our words."""
    known = {word for task in (FILMS, TOOLS) for words in task for word in words}
    known |= {word for template in TEMPLATES for word in template.split() if word != "{}"}
    vocabulary = {word: k for k, word in enumerate(["[PAD]", "[UNK]", *sorted(known)])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 -- no password
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]")  # noqa: S106
    config = AutoConfig.for_model("bert", vocab_size=len(vocabulary), num_labels=2, pad_token_id=0, **TINY)
    return AutoModelForSequenceClassification.from_config(config), tokenizer


def accuracy(model: Reviewer, loader: DataLoader) -> float:
    """Measure the model."""
    return Trainer(**SETTINGS).test(model, loader, verbose=False)[0]["accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="name or folder of a pretrained encoder")
    name = parser.parse_args().model

    seed_everything(0, verbose=False)
    if name is None:
        network, tokenizer = tiny()
    else:
        network = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
        tokenizer = AutoTokenizer.from_pretrained(name)
    base = Reviewer(network.train(), lr=2e-3 if name is None else 5e-5)
    collate = DataCollatorWithPadding(tokenizer)

    def encoded(rows: list[tuple[str, int]]) -> list[dict]:
        return [{**tokenizer(text), "labels": label} for text, label in rows]

    films, tools = encoded(sentences(FILMS, 300, seed=0)), encoded(sentences(TOOLS, 300, seed=1))
    tests = [
        DataLoader(encoded(sentences(task, 200, seed=2)), batch_size=200, collate_fn=collate)
        for task in (FILMS, TOOLS)
    ]
    pretrain = DataLoader(films, batch_size=16, shuffle=True, collate_fn=collate)
    Trainer(max_epochs=5, **SETTINGS).fit(base, pretrain)

    def finetuned(*callbacks: RehearsalCallback) -> Reviewer:
        seed_everything(0, verbose=False)
        model = copy.deepcopy(base)
        loader = DataLoader(tools, batch_size=16, shuffle=True, collate_fn=collate)
        Trainer(max_epochs=10, callbacks=list(callbacks), **SETTINGS).fit(model, loader)
        return model

    with tempfile.TemporaryDirectory() as folder:
        # The pool is collated as the finetune data is. Where lengths differ, the shorter side is padded as
        # the tokenizer in `collate` pads.
        pool = Pool(films, collate_fn=collate)
        rehearsal = RehearsalCallback(MixCD(), pool=pool, ledger=f"{folder}/base.ledger", mix_ratio=0.25)
        reviewers = {
            "base model": base,
            "finetuned": finetuned(),
            "finetuned with rehearsal": finetuned(rehearsal),
        }
    for title, model in reviewers.items():
        prior, new = (accuracy(model, loader) for loader in tests)
        print(f"{title:>24}: films {prior:.1%}, tools {new:.1%}")
