import math
from collections import Counter

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from transformers import T5Config

from lightning_mixcd.tasks import GenerationScores, Writer, load_network
from lightning_mixcd.tasks.generation_scores import SCORES, last_number
from lightning_mixcd.tasks.tokenized import TokenizedDataModule
from tests.tasks.test_transformer import fitted, tokenized
from tests.tasks.tiny import BART, GPT2, collator, module, ragged
from tests.toys import QUIET

FORMS = ["seq2seq", "causal"]
WRITTEN = ["a dog runs in the park", "two men sit on a bench", ""]
TRUE = ["a dog runs in the green park", "two men are sitting on a bench", "who"]


def ngrams(tokens, n):
    return Counter(tuple(tokens[k : k + n]) for k in range(len(tokens) - n + 1))


def bleu(written, true):
    precisions = []
    for n in range(1, 5):
        pairs = [(ngrams(a.split(), n), ngrams(b.split(), n)) for a, b in zip(written, true, strict=True)]
        hits = sum((a & b).total() for a, b in pairs)
        precisions.append(hits / sum(a.total() for a, _ in pairs))
    lengths = [sum(len(text.split()) for text in texts) for texts in (written, true)]
    brevity = min(1, math.exp(1 - lengths[1] / lengths[0]))
    return brevity * math.prod(precisions) ** (1 / 4)


def chrf(written, true):
    precisions, recalls = [], []
    for n in range(1, 7):
        pairs = [
            (ngrams(a.replace(" ", ""), n), ngrams(b.replace(" ", ""), n))
            for a, b in zip(written, true, strict=True)
        ]
        hits = sum((a & b).total() for a, b in pairs)
        precisions.append(hits / sum(a.total() for a, _ in pairs))
        recalls.append(hits / sum(b.total() for _, b in pairs))
    precision, recall = sum(precisions) / 6, sum(recalls) / 6
    return 5 * precision * recall / (4 * precision + recall)


def test_scores_of_texts_are_those_counted_by_hand():
    assert SCORES["bleu"](WRITTEN, TRUE) == pytest.approx(bleu(WRITTEN, TRUE), abs=1e-5)
    assert SCORES["chrf"](WRITTEN, TRUE) == pytest.approx(chrf(WRITTEN, TRUE), abs=1e-5)
    assert SCORES["exact"]([*WRITTEN, "who"], [*TRUE, "who "]) == 1 / 4


@pytest.mark.parametrize("score", ["bleu", "chrf", "exact"])
def test_the_true_texts_score_one(score):
    assert SCORES[score](TRUE[:2], TRUE[:2]) == pytest.approx(1)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize(("written", "true"), [("", "a dog runs"), ("a dog runs", ""), ("", "")])
def test_empty_texts_have_a_score(score, written, true):
    assert 0 <= SCORES[score]([written], [true]) <= 1


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He has 3 + 4 = 7.\n#### 7", 7),
        ("1,234,567 dollars", 1234567),
        ("it is -0.5.", -0.5),
        ("9-4", 4),
        ("in 2024, 10 of them", 10),
        ("none", None),
        ("", None),
    ],
)
def test_last_number_is_found(text, number):
    assert last_number(text) == number


def test_numbers_are_right_where_the_true_text_ends_in_them():
    written, true = ["= 7", "= 7.0", "8", "none", "none"], ["#### 7", "7", "#### 7", "7", "none"]
    assert SCORES["number"](written, true) == 2 / 5


def greedy(model, form, sample, n):
    """The slow way: one row alone, one token after the other, everything read again for each."""
    network, ids = model.network, sample["input_ids"]
    if form == "causal":
        ids = ids[: sample["labels"].count(-100)]
    new = []
    while len(new) < n and 1 not in new:
        with torch.no_grad():
            if form == "causal":
                logits = network(input_ids=torch.tensor([[*ids, *new]])).logits
            else:
                before = torch.tensor([[0, *new]])
                logits = network(input_ids=torch.tensor([ids]), decoder_input_ids=before).logits
        new.append(int(logits[0, -1].argmax()))
    return new


def expected(model, form, samples, n):
    """What is written, and what would be right."""
    decode = collator(form).tokenizer.decode
    written = [decode(greedy(model, form, s, n), skip_special_tokens=True) for s in samples]
    labels = [[token for token in s["labels"] if token != -100] for s in samples]
    return written, [decode(tokens, skip_special_tokens=True) for tokens in labels]


def uneven(form, lengths, *, seed):
    """Prompts of different lengths, in both forms."""
    batch, samples = ragged(form, lengths, seed=seed)
    if form == "causal":
        for sample in samples:
            half = len(sample["labels"]) // 2
            sample["labels"] = [-100] * half + sample["input_ids"][half:]
        batch = collator(form)(samples)
    return batch, samples


@pytest.mark.parametrize("form", FORMS)
def test_texts_are_those_written_one_token_after_the_other(form):
    model = module(form).eval()
    batch, samples = uneven(form, [11, 4, 8], seed=3)
    scores = GenerationScores(["exact"], max_new_tokens=6)
    scores.add(model.network, batch, collator(form), "new")
    written, true = expected(model, form, samples, 6)
    assert len({*written}) > 1
    assert scores._texts == [("new", "", a, b) for a, b in zip(written, true, strict=True)]


@pytest.mark.parametrize(
    ("form", "kind", "config", "rooms"),
    [
        ("causal", "CausalLM", {**GPT2, "n_positions": 14}, [8, 9, 9]),
        (
            "seq2seq",
            "Seq2SeqLM",
            {**BART, "max_position_embeddings": 12, "decoder_start_token_id": 0},
            [9, 9, 9],
        ),
        (
            "seq2seq",
            "Seq2SeqLM",
            {**BART, "max_position_embeddings": 7, "decoder_start_token_id": 0},
            [7, 7, 7],
        ),
    ],
)
def test_nothing_is_written_beyond_the_last_position(form, kind, config, rooms):
    model = Writer(load_network(kind, config, forced_eos_token_id=None)).eval()
    batch, samples = uneven(form, [12, 4, 10] if form == "causal" else [7, 4, 6], seed=3)
    scores = GenerationScores(["exact"], max_new_tokens=9)
    scores.add(model.network, batch, collator(form), "new")
    decode = collator(form).tokenizer.decode
    written = [
        decode(greedy(model, form, sample, room), skip_special_tokens=True)
        for sample, room in zip(samples, rooms, strict=True)
    ]
    assert [text for *_, text, _ in scores._texts] == written


@pytest.mark.parametrize("form", FORMS)
def test_validation_logs_the_scores_of_both_loaders(form):
    scores = GenerationScores(["chrf", "exact"], rows=7, max_new_tokens=5)
    model, trainer, prior = fitted(form, options={"generation": scores})
    for name, samples in (("prior", prior), ("new", tokenized(form, 8, seed=5))):
        written, true = expected(model.eval(), form, samples[:7], 5)
        for score in ("chrf", "exact"):
            found = trainer.callback_metrics[f"val/{name}/{score}"]
            assert found == pytest.approx(SCORES[score](written, true), abs=1e-5)


def test_texts_of_a_validation_that_was_interrupted_are_not_scored(monkeypatch):
    class Stopped(Callback):
        def on_validation_batch_end(self, *_):
            raise RuntimeError("stopped")

    def validate(seed, *callbacks):
        samples = tokenized("causal", 8, seed=seed)
        loader = TokenizedDataModule([], samples, collator("causal"), batch_size=4).val_dataloader()
        Trainer(callbacks=[*callbacks], **QUIET).validate(model, loader, verbose=False)

    scored = []
    monkeypatch.setitem(SCORES, "exact", lambda _, true: scored.append(true) or 0.0)
    model = module("causal", generation=GenerationScores(["exact"], rows=5, max_new_tokens=2))
    validate(5)
    with pytest.raises(RuntimeError, match="stopped"):
        validate(6, Stopped())
    validate(5)
    assert scored[1] == scored[0]


class Parrot(torch.nn.Module):
    """Writes the prompt once more."""

    config = T5Config()

    def generate(self, input_ids, **_):
        return input_ids


def said(prompts, targets):
    tokenizer = collator("seq2seq").tokenizer
    samples = [
        {"input_ids": tokenizer(prompt)["input_ids"], "labels": tokenizer(target)["input_ids"]}
        for prompt, target in zip(prompts, targets, strict=True)
    ]
    return collator("seq2seq")(samples)


def test_each_prefix_has_rows_and_a_score_of_its_own():
    scores = GenerationScores(["exact"], rows=2, by_prefix=True)
    # The third of each is one too many, in whatever batch; each name of a loader has its own rows.
    for prompts, targets in (
        (["de: a", "de: b", "de: c", "fr: a"], ["de: a", "wrong", "de: c", "fr: a"]),
        (["fr: b", "fr: c"], ["fr: b", "wrong"]),
    ):
        scores.add(Parrot(), said(prompts, targets), collator("seq2seq"), "prior")
    scores.add(Parrot(), said(["de: a"], ["wrong"]), collator("seq2seq"), "new")
    assert scores.compute() == {
        "val/prior/exact": 3 / 4,
        "val/prior/exact/de": 1 / 2,
        "val/prior/exact/fr": 1,
        "val/new/exact": 0,
        "val/new/exact/de": 0,
    }
    assert scores.compute() == {}
    scores.add(Parrot(), said(["de: a"], ["de: a"]), collator("seq2seq"), "new")
    assert scores.compute() == {"val/new/exact": 1, "val/new/exact/de": 1}


def test_texts_of_all_processes_are_scored(monkeypatch):
    def gather(parts, texts):
        parts[:] = [texts, [("new", "", "b", "wrong")]]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    scores = GenerationScores(["exact"])
    scores.add(Parrot(), said(["a"], ["a"]), collator("seq2seq"), "new")
    assert scores.compute() == {"val/new/exact": 1 / 2}


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"`scores` must be some of \['bleu', .*got \['rouge'\]"):
        GenerationScores(["rouge"])
    with pytest.raises(ValueError, match=r"`scores` must be some of .*got \[\]"):
        GenerationScores([])
    with pytest.raises(ValueError, match=r"`rows` and `max_new_tokens` must be at least 1, got 0 and 64"):
        GenerationScores(["bleu"], rows=0)
    with pytest.raises(TypeError, match=r"`collate_fn` .* must have a `tokenizer`.* got builtin_function"):
        GenerationScores(["bleu"]).add(Parrot(), said(["a"], ["a"]), len, "new")
    scores = GenerationScores(["bleu"], by_prefix=True)
    for prompt in ("a", ""):
        with pytest.raises(ValueError, match=rf"must begin with a prefix and a colon.*got '{prompt}'"):
            scores.add(Parrot(), said([prompt], ["a"]), collator("seq2seq"), "new")
