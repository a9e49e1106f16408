"""Tiny models of random weights, and tokenizers and files made on the spot: nothing is downloaded."""

import json
from functools import cache

import torch

from lightning_mixcd.tasks import SentenceClassifier, SpanReader, TextRows, Writer, load_network

BERT_TOKENS = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
WORDS = ["a", "table", "for", "two", "at", "quarter", "past", "eight", "dogs", "run", "who", "when", ".", "?"]

BERT = {
    "model_type": "bert",
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
}
T5 = {
    "model_type": "t5",
    "vocab_size": 300,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_heads": 2,
    "num_layers": 1,
    "decoder_start_token_id": 0,
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 300,
    "n_embd": 16,
    "n_head": 2,
    "n_layer": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
BART = {
    "model_type": "bart",
    "vocab_size": 300,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
NETWORKS = {
    "sentences": ("SequenceClassification", BERT, {"num_labels": 3}),
    "spans": ("QuestionAnswering", BERT, {}),
    "seq2seq": ("Seq2SeqLM", T5, {}),
    "causal": ("CausalLM", GPT2, {}),
}
MODULES = {"sentences": SentenceClassifier, "spans": SpanReader, "seq2seq": Writer, "causal": Writer}


def network(kind, *, seed=0, **options):
    """Weights of a wide spread, so that no two rows or tokens look alike."""
    name, model, settings = NETWORKS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = load_network(name, model, **settings, **options)
        with torch.no_grad():
            for parameter in made.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(4)
    return made


def module(kind, *, seed=0, **options):
    return MODULES[kind](network(kind, seed=seed), **options)


def save_tokenizer(folder, *, limit=32):
    """Write a tokenizer of whole words, which reads one text or a pair as BERT does; return its folder."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: k for k, word in enumerate([*BERT_TOKENS.values(), *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token=BERT_TOKENS["unk_token"]))
    raw.normalizer, raw.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, model_max_length=limit, model_input_names=inputs, **BERT_TOKENS
    )
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_rows(folder, name, rows, **options):
    """Write rows as training and validation split; return where they are."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"train": str(path), "test": str(path)}
    return TextRows({"path": "json", "data_files": files, "cache_dir": str(folder / "cache")}, **options)


def ragged(kind, lengths, *, seed):
    """A batch of rows of these lengths, padded as the collators pad."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(n):
        return torch.randint(4, 40, (n,), generator=generator).tolist()

    samples = []
    for n in lengths:
        ids = tokens(n)
        pair = {"token_type_ids": [0, 0] + [1] * (n - 2)}
        if kind == "sentences":
            extra = {**pair, "labels": n % 3}
        elif kind == "spans":
            extra = {**pair, "start_positions": n % 2, "end_positions": n - 1}
        elif kind == "seq2seq":
            extra = {"labels": tokens(1 + n % 4)}
        else:
            extra = {"labels": [-100, -100, *ids[2:]]}
        samples.append({"input_ids": ids, **extra})
    return collator(kind)(samples), samples


@cache
def collator(kind):
    from tempfile import mkdtemp

    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

    from lightning_mixcd.tasks.tokenizers import named_tokenizer, trained_tokenizer

    if kind in {"sentences", "spans"}:
        return DataCollatorWithPadding(named_tokenizer(save_tokenizer(mkdtemp())))
    return DataCollatorForSeq2Seq(trained_tokenizer(WORDS, 300))
