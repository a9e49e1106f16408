from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from lightning_mixcd.app.shown import shown
from lightning_mixcd.data import Pool


class Words:
    """A tokenizer of four words, of which two are special: the end of a text, and padding."""

    sep_token_id = 2

    def decode(self, ids, *, skip_special_tokens):
        assert skip_special_tokens
        return " ".join(["how", "far"][k] for k in ids if k < 2)


def padded(samples):
    collate_fn = partial(list)
    collate_fn.tokenizer = Words()
    return Pool(samples, collate_fn=collate_fn)


@pytest.mark.parametrize(
    ("sample", "text"),
    [
        ({"input_ids": [3, 0, 1], "labels": 3}, "how far"),
        ({"input_ids": [0, 2, 1, 1, 2], "labels": 3}, "how | far far"),
        ({"input_ids": [0, 2], "labels": [1, 2]}, "how → far"),
        ({"input_ids": [0, 1], "labels": [-100, 1]}, "how far"),
    ],
)
def test_tokens_are_shown_as_text(sample, text):
    assert shown(padded([sample]), 0) == text


def test_tokens_without_a_tokenizer_are_not_shown():
    assert shown(Pool([{"input_ids": [0]}]), 0) is None


def test_texts_of_a_dataset_are_shown():
    data = TensorDataset(torch.zeros(2, 5))
    data.texts = ["near", "far"]
    assert shown(Pool(data), 1) == "far"


def test_pictures_are_shown_in_their_range():
    grey, colours = torch.rand(1, 4, 3), torch.rand(3, 4, 5)
    np.testing.assert_allclose(shown(Pool([(grey, 1)]), 0), grey[0])
    np.testing.assert_allclose(shown(Pool([(colours, 1)]), 0), colours.permute(1, 2, 0))


def test_normalised_pictures_are_brought_into_range():
    found = shown(Pool([torch.tensor([[-1.0, 0.0], [1.0, 3.0]])]), 0)
    np.testing.assert_allclose(found, [[0, 0.25], [0.5, 1]])


@pytest.mark.parametrize("sample", [(torch.zeros(7), 1), (torch.zeros(5, 2, 2), 1), (3.0, 1), "text"])
def test_other_samples_are_not_shown(sample):
    assert shown(Pool([sample]), 0) is None
