"""Tokenizers: found by name, or trained on the texts at hand."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lightning_mixcd.tasks.embedding import packaged_encoder

__all__ = ["check_lengths", "named_tokenizer", "trained_tokenizer"]

PAD, END = "<pad>", "</s>"


def named_tokenizer(name: str | None) -> Any:  # noqa: ANN401 -- as the name says
    """Load a tokenizer.

    Args:
        name: Name on the hub or folder of a model; None for the encoder of the extra `bench`.

    Returns:
        The tokenizer, a fast one, which pads on the right, as joining does; where it has no padding token,
        the one that ends a text serves as such.

    Raises:
        ModuleNotFoundError: If there is no name and the extra is not installed.
    """
    from transformers import AutoTokenizer

    # Padding on the left would move the places of answers, and what a model reads into positions.
    tokenizer = AutoTokenizer.from_pretrained(name or packaged_encoder(), padding_side="right")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def trained_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:  # noqa: ANN401 -- of `transformers`
    """Train a tokenizer of pairs of bytes, which no text in any language is unknown to.

    Args:
        texts: What to train on.
        vocab_size: Tokens that it has at most; a model must have as many.

    Returns:
        The tokenizer. Token 0 pads and begins what a decoder writes; token 1 ends every text.

    Raises:
        ValueError: If the vocabulary cannot hold all bytes.

    Example:
        >>> trained_tokenizer(["ein Hund", "un chien"], 300)("chien")["input_ids"][-1]
        1
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + 2:
        raise ValueError(
            f"`vocab_size` must be at least {len(alphabet) + 2}, the bytes and two tokens more, got "
            f"{vocab_size}. Raise it."
        )
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(texts, trainer)
    raw.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    make: Any = PreTrainedTokenizerFast
    return make(tokenizer_object=raw, pad_token=PAD, eos_token=END)


def check_lengths(samples: Sequence[Mapping[str, Any]], limit: int, key: str = "input_ids") -> None:
    """Refuse samples that a model cannot read or write whole, because nothing is ever cut.

    Args:
        samples: Samples with lists of tokens.
        limit: Tokens that the model can read, or write.
        key: Where the tokens are: `"input_ids"`, or `"labels"` for what is to be written.

    Raises:
        ValueError: If there are such samples.
    """
    lengths = [len(sample[key]) for sample in samples]
    if (longest := max(lengths, default=0)) > limit:
        kind, verb = ("target", "writes") if key == "labels" else ("text", "reads")
        raise ValueError(
            f"Every {kind} must have at most {limit} tokens, the limit of this tokenizer's model, got "
            f"{longest} in row {lengths.index(longest)}; {sum(n > limit for n in lengths)} of {len(lengths)} "
            f"rows are too long. Shorten them, leave them out, or use a model that {verb} more."
        )
