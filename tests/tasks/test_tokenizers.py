from itertools import permutations

import pytest

from lightning_mixcd.tasks.tokenizers import check_lengths, named_tokenizer, trained_tokenizer
from tests.tasks.tiny import save_tokenizer

TEXTS = ["ein Hund läuft", "un chien court", "pes běží", "犬が走る 🐕"]


def test_any_text_is_read_and_written_back():
    tokenizer = trained_tokenizer(TEXTS[:2], 300)
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids[:-1]) == text
        assert ids[-1] == tokenizer.eos_token_id == 1
    assert tokenizer.pad_token_id == 0
    assert len(tokenizer) <= 300


def test_training_shortens_what_it_was_trained_on():
    lengths = [len(trained_tokenizer(100 * TEXTS[:1], size)(TEXTS[0])["input_ids"]) for size in (260, 300)]
    assert lengths[1] < lengths[0]


def test_training_leaves_nothing_to_chance():
    # Many pairs of letters are equally frequent.
    texts = ["".join(letters) for letters in permutations("abcde")]
    first, *others = (trained_tokenizer(texts, 300).get_vocab() for _ in range(5))
    assert len(first) == 300
    assert others == 4 * [first]


def test_vocabulary_that_cannot_hold_all_bytes_is_refused():
    with pytest.raises(ValueError, match=r"`vocab_size` must be at least 258.*got 200"):
        trained_tokenizer(TEXTS, 200)


def test_tokenizer_is_found_in_a_folder(tmp_path):
    assert named_tokenizer(save_tokenizer(tmp_path)).pad_token == "[PAD]"  # noqa: S105


def test_end_of_text_pads_where_nothing_else_does(tmp_path):
    tokenizer = trained_tokenizer(TEXTS, 300)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    assert named_tokenizer(str(tmp_path)).pad_token_id == 1


def test_longest_row_is_named():
    samples = [{"input_ids": [4] * n} for n in (3, 9, 8, 5)]
    with pytest.raises(ValueError, match=r"at most 6 tokens.*got 9 in row 1; 2 of 4 rows are too long"):
        check_lengths(samples, 6)
    check_lengths(samples, 9)
