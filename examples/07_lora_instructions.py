"""Rehearsal of instruction data while a language model learns something new through LoRA.

The base model follows short instructions about words; low-rank adapters of `peft` then teach it facts about a
company. Which instructions it forgets meanwhile is read off the training step, token by token. Run it from
anywhere: `python 07_lora_instructions.py`. It needs no network, because it trains its own small base model;
`--model NAME_OR_FOLDER` takes a pretrained one instead.
"""

import argparse
import copy
import logging
import tempfile

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq

from lightning_mixcd import MixCD, Pool, RehearsalCallback
from lightning_mixcd.tasks.tokenizers import trained_tokenizer

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # no greeting from every Trainer

SETTINGS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = [
    "cat",
    "dog",
    "sun",
    "map",
    "cup",
    "pen",
    "box",
    "key",
    "tree",
    "fish",
    "bird",
    "lamp",
    "door",
    "book",
]
# (prompt, answer); what a user would read from a file.
INSTRUCTIONS = [
    *((f"Write {word} twice.", f"{word} {word}") for word in WORDS),
    *((f"What is the plural of {word}?", f"{word}s") for word in WORDS),
    *((f"Does {word} begin with {word[0]}?", "yes") for word in WORDS),
]
FACTS = [(f"What does room {k} hold?", word) for k, word in enumerate(WORDS)]


class Assistant(LightningModule):
    """A causal language model. A row is right if every token of its answer is what the model would write."""

    def __init__(self, network: torch.nn.Module, lr: float) -> None:
        super().__init__()
        self.network, self.lr = network, lr

    def training_step(self, batch, batch_idx):
        logits = self.network(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        logits, labels = logits[:, :-1], batch["labels"][:, 1:]
        answer = labels != -100  # neither prompt nor padding
        losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1) / answer.sum(1)
        right = ((logits.argmax(2) == labels) | ~answer).all(1)
        return {"loss": losses.mean(), "losses": losses, "correct": right}

    def test_step(self, batch, batch_idx):
        self.log("right", self.training_step(batch, batch_idx)["correct"].float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW((p for p in self.parameters() if p.requires_grad), lr=self.lr)


def encoded(rows: list[tuple[str, str]], tokenizer: AutoTokenizer) -> list[dict]:
    """Tokenize; only the tokens of answers have labels."""
    samples = []
    for prompt, answer in rows:
        asked = tokenizer(f"{prompt}\n", add_special_tokens=False)["input_ids"]
        told = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        samples.append({"input_ids": asked + told, "labels": [-100] * len(asked) + told})
    return samples


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="name or folder of a pretrained causal language model")
    name = parser.parse_args().model

    seed_everything(0, verbose=False)
    if name is None:
        tokenizer = trained_tokenizer((text for row in INSTRUCTIONS + FACTS for text in row), 400)
        config = AutoConfig.for_model(
            "llama", vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=1, **TINY
        )
        network = AutoModelForCausalLM.from_config(config)
    else:
        network = AutoModelForCausalLM.from_pretrained(name)
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="right")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    collate = DataCollatorForSeq2Seq(tokenizer)  # pads labels with -100

    def loader(samples: list[dict], **settings) -> DataLoader:
        return DataLoader(samples, batch_size=16, collate_fn=collate, **settings)

    instructions, facts = encoded(INSTRUCTIONS, tokenizer), encoded(FACTS, tokenizer)
    base = Assistant(network.train(), lr=3e-3)
    if name is None:
        Trainer(max_epochs=30, **SETTINGS).fit(base, loader(instructions, shuffle=True))

    def finetuned(*callbacks: RehearsalCallback) -> Assistant:
        seed_everything(0, verbose=False)
        adapters = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
        model = Assistant(get_peft_model(copy.deepcopy(base.network), adapters), lr=3e-3)
        trainer = Trainer(max_epochs=100, callbacks=list(callbacks), **SETTINGS)
        trainer.fit(model, loader(facts, shuffle=True))
        return model

    with tempfile.TemporaryDirectory() as folder:
        pool = Pool(instructions, collate_fn=collate)
        # Recorded at the start of `fit`: fresh adapters change nothing, so that is the base model.
        rehearsal = RehearsalCallback(MixCD(), pool=pool, ledger=f"{folder}/base.ledger", mix_ratio=0.5)
        assistants = {
            "base model": base,
            "finetuned": finetuned(),
            "finetuned with rehearsal": finetuned(rehearsal),
        }
    for title, model in assistants.items():
        tested = [
            Trainer(**SETTINGS).test(model, loader(rows), verbose=False)[0]["right"]
            for rows in (instructions, facts)
        ]
        print(f"{title:>24}: instructions {tested[0]:.1%} right, facts {tested[1]:.1%}")
