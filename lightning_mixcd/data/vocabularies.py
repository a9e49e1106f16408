"""Whether texts that share a batch were read by tokenizers that number tokens alike."""

from typing import Any

__all__ = ["check_alike", "tokenizer_of"]


def tokenizer_of(source: object) -> Any | None:  # noqa: ANN401 -- of several libraries
    """Return the tokenizer that pads batches, if it is known, as in Transformers' `DataCollatorWithPadding`.

    Args:
        source: A loader, or a `Pool`.

    Returns:
        The tokenizer, or None.
    """
    # A loader made by `order_seed` leaves it to its dataset to collate.
    for collating in (source, getattr(source, "dataset", None)):
        tokenizer = getattr(getattr(collating, "collate_fn", None), "tokenizer", None)
        if hasattr(tokenizer, "get_vocab"):
            return tokenizer
    return None


def check_alike(first: str, one: object, second: str, other: object) -> None:
    """Refuse two sources of texts if it is known that some token has another number in one than in the other.

    One vocabulary may go beyond the other, as where tokens were added for a new task.

    Args:
        first: What to call the first source.
        one: A loader, or a `Pool`.
        second: What to call the second one.
        other: The same.

    Raises:
        ValueError: If one model cannot read both.
    """
    a, b = tokenizer_of(one), tokenizer_of(other)
    if a is b or a is None or b is None:
        return
    numbers, others = a.get_vocab(), b.get_vocab()
    shared = numbers.keys() & others.keys()
    alike = sum(numbers[token] == others[token] for token in shared)
    if alike < len(shared) or not shared:
        raise ValueError(
            f"The {second} must be read by the tokenizer of the {first}, a {type(a).__name__} of "
            f"{len(numbers)} tokens, got another: a {type(b).__name__} of {len(others)}, with the same "
            f"number for {alike} of the {len(shared)} tokens in both. Tokenize both alike, with the "
            "tokenizer of the model."
        )
