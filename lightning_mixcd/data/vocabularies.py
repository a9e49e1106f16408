"""Whether texts that share a batch were read by tokenizers that number tokens, and pad, alike."""

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

    One vocabulary may go beyond the other, as where tokens were added for a new task. Padding on the right
    is refused where a pool's tokenizer adds it to rows that another padded on the left.

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
    # Only what a pool's tokenizer says is refused; a user who names the value may know better.
    sides = [getattr(tokenizer, "padding_side", None) for tokenizer in (a, b)]
    known, given = getattr(other, "known_pad_values", {}), getattr(other, "pad_values", None) or {}
    if sides == ["left", "right"] and "input_ids" in known.keys() - given.keys():
        raise ValueError(
            f"The tokenizers of the {first} and the {second} must pad on one side, got left and right. "
            'Joining pads on the right: set `padding_side="right"` on both, or, for a model that can read '
            "either, pass `Pool(..., pad_values={'input_ids': ...})`."
        )
