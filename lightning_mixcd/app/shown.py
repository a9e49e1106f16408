"""Samples as a reader can look at them."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_mixcd.data import Pool

__all__ = ["shown"]

CHANNELS = (1, 3)


def shown(pool: Pool, index: int) -> str | npt.NDArray[np.float64] | None:
    """Make a sample readable.

    Args:
        pool: Where it is.
        index: Its position.

    Returns:
        Its text, if the dataset has `texts` or the pool is padded by a tokenizer; its picture, `(H, W)` or
        `(H, W, 3)` in [0, 1], if it begins with one; else None.
    """
    texts = getattr(pool.dataset, "texts", None)
    if texts is not None:
        return str(texts[index])
    sample = pool.dataset[index]
    if isinstance(sample, Mapping):
        return _text(sample, getattr(pool.collate_fn, "tokenizer", None))
    first = sample[0] if isinstance(sample, tuple | list) else sample
    return _picture(first) if isinstance(first, Tensor) else None


def _text(sample: Mapping[str, Any], tokenizer: Any) -> str | None:  # noqa: ANN401 -- of `transformers`
    if tokenizer is None or "input_ids" not in sample:
        return None
    labels = sample.get("labels")
    separator = tokenizer.sep_token_id
    parts = [
        [*tokens]
        for ends, tokens in groupby(sample["input_ids"], lambda token: token == separator)
        if not ends
    ]
    text = " | ".join(tokenizer.decode(part, skip_special_tokens=True) for part in parts)
    # Of a model with a decoder; where the target goes on after the prompt it is among the inputs.
    if isinstance(labels, list) and min(labels) >= 0:
        text += " → " + tokenizer.decode(labels, skip_special_tokens=True)
    return text


def _picture(values: Tensor) -> npt.NDArray[np.float64] | None:
    if values.ndim == 3 and values.shape[0] in CHANNELS:
        values = values[0] if values.shape[0] == 1 else values.movedim(0, 2)
    elif values.ndim != 2:
        return None
    found = values.detach().cpu().double().numpy()
    low, high = min(found.min(), 0.0), max(found.max(), 1e-12)
    if high > 1 or low < 0:
        found = (found - low) / (high - low)
    return found
