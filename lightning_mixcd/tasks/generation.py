"""Tasks whose answers are texts: translation, and whatever else follows from a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.rows import TextRows
from lightning_mixcd.tasks.texts import check_texts
from lightning_mixcd.tasks.tokenized import Sample, tokenized_pairing
from lightning_mixcd.tasks.tokenizers import named_tokenizer, trained_tokenizer

__all__ = ["generation_pairing", "translation_pairing"]

Form = Literal["seq2seq", "causal"]
Rows = Mapping[str, list[Any]]


def generation_pairing(
    prior: TextRows,
    new: TextRows,
    *,
    form: Form = "causal",
    tokenizer: str | int = 4096,
    batch_size: int = 32,
) -> Pairing:
    r"""Write answers to prompts: one task, then another.

    Both tasks need the columns `prompt` and `target`, by these names or by `names`.

    Args:
        prior: The earlier task. Its `columns` come along for partitions.
        new: The task to finetune on.
        form: `"seq2seq"` for models with a decoder of their own, which writes the target; `"causal"` for
            models that go on writing where the prompt ends, after a line break.
        tokenizer: Name or folder of the model that will read the texts; or the size of a vocabulary to be
            trained on all training texts.
        batch_size: Samples per batch, in both tasks.

    Returns:
        The pairing. Batches hold `input_ids`, `attention_mask` and `labels`, which are -100 wherever no token
        of the target is.

    Raises:
        ValueError: If a column or a text is not there, `form` is no known word, a text is longer than the
            model can read, or the tokenizer of causal models has no token to end one with.
    """
    loaded = [
        task.load(split, ["prompt", "target"]) for task in (prior, new) for split in (task.train, task.val)
    ]
    return _pairing(loaded, prior.kept(loaded[0]), form, tokenizer, batch_size)


def translation_pairing(
    rows: TextRows,
    *,
    source: str = "en",
    prior: Sequence[str],
    new: Sequence[str],
    tokenizer: str | int = 4096,
    batch_size: int = 32,
) -> Pairing:
    """Translate the same sentences: into some languages, then into others.

    A prompt is the target language and the sentence, as in `"de: A dog runs."`.

    Args:
        rows: Sentences, a column per language. Its `columns` come along for partitions, and so does
            `language`, the target language.
        source: Language to translate from.
        prior: Languages of the earlier task.
        new: Languages to finetune on.
        tokenizer: Name or folder of the model that will read the texts; or the size of a vocabulary to be
            trained on all training texts.
        batch_size: Samples per batch, in both tasks.

    Returns:
        The pairing, for models with a decoder; see `generation_pairing`.

    Raises:
        ValueError: If a column or a text is not there, or a text is longer than the model can read.
    """
    train, val = (rows.load(split, [source, *prior, *new]) for split in (rows.train, rows.val))
    for split, held in ((rows.train, train), (rows.val, val)):
        for language in (source, *prior, *new):
            check_texts(held[language], f"{language!r} of split {split!r}")
    loaded = [_into(split, source, languages) for languages in (prior, new) for split in (train, val)]
    columns = {name: np.tile(values, len(prior)) for name, values in rows.kept(train).items()}
    columns["language"] = np.repeat([*prior], len(train[source]))
    return _pairing(loaded, columns, "seq2seq", tokenizer, batch_size)


def _into(rows: Rows, source: str, languages: Sequence[str]) -> Rows:
    return {
        "prompt": [f"{language}: {text}" for language in languages for text in rows[source]],
        "target": [text for language in languages for text in rows[language]],
    }


def _pairing(
    loaded: Sequence[Rows],
    columns: Mapping[str, npt.NDArray[Any]],
    form: Form,
    tokenizer: str | int,
    batch_size: int,
) -> Pairing:
    from transformers import DataCollatorForSeq2Seq

    if form not in _SAMPLES:
        raise ValueError(f"`form` must be one of {[*_SAMPLES]}, got {form!r}. Pass one of them.")
    if isinstance(tokenizer, int):
        # Validation texts are nothing to learn from, not even words.
        texts = (text for rows in loaded[::2] for key in ("prompt", "target") for text in rows[key])
        reader = trained_tokenizer(texts, tokenizer)
    else:
        reader = named_tokenizer(tokenizer)
    splits = [_SAMPLES[form](reader, rows["prompt"], rows["target"]) for rows in loaded]
    collate_fn = DataCollatorForSeq2Seq(reader)
    return tokenized_pairing(splits, reader, collate_fn, columns=columns, batch_size=batch_size)


def _seq2seq(tokenizer: Any, prompts: list[str], targets: list[str]) -> list[Sample]:  # noqa: ANN401
    inputs = tokenizer(prompts)["input_ids"]
    labels = tokenizer(text_target=targets)["input_ids"]
    return [{"input_ids": ids, "labels": target} for ids, target in zip(inputs, labels, strict=True)]


def _causal(tokenizer: Any, prompts: list[str], targets: list[str]) -> list[Sample]:  # noqa: ANN401
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"`tokenizer` must have a token that ends a text, `eos_token`, got a {type(tokenizer).__name__} "
            "without. Name the folder of one that has."
        )
    asked = tokenizer([f"{prompt}\n" for prompt in prompts], add_special_tokens=False)["input_ids"]
    answered = tokenizer(targets, add_special_tokens=False)["input_ids"]
    samples = []
    for prompt, target in zip(asked, answered, strict=True):
        read, written = [*begin, *prompt], [*target, tokenizer.eos_token_id]
        samples.append({"input_ids": read + written, "labels": [-100] * len(read) + written})
    return samples


_SAMPLES = {"seq2seq": _seq2seq, "causal": _causal}
