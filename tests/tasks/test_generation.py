import pytest

from lightning_mixcd.tasks import generation_pairing, translation_pairing
from lightning_mixcd.tasks.tokenizers import trained_tokenizer
from tests.tasks.tiny import save_rows, save_tokenizer

PRIOR = [
    {"question": "two and two", "equation": "+ 2 2", "operation": "add"},
    {"question": "eight of two", "equation": "* 8 2", "operation": "multiply"},
]
NEW = [{"question": "who runs", "equation": "= x"}]
NAMES = {"prompt": "question", "target": "equation"}
SENTENCES = [
    {"en": "dogs run", "de": "Hunde laufen", "fr": "les chiens courent", "cs": "psi běží", "half": 0},
    {"en": "who", "de": "wer", "fr": "qui", "cs": "kdo", "half": 1},
]


def trained(rows, size=300):
    """The tokenizer that a pairing trains on these training texts."""
    return trained_tokenizer([text for prompt_and_target in rows for text in prompt_and_target], size)


def maths(tmp_path, **options):
    prior = save_rows(tmp_path, "prior", PRIOR, names=NAMES, columns=["operation"])
    return generation_pairing(prior, save_rows(tmp_path, "new", NEW, names=NAMES), **options)


def written(tokenizer, sample):
    labels = [token for token in sample["labels"] if token != -100]
    assert labels[-1] == tokenizer.eos_token_id
    return tokenizer.decode(labels[:-1])


def test_causal_samples_are_prompt_and_target_of_which_the_target_counts(tmp_path):
    pairing = maths(tmp_path, form="causal", tokenizer=300)
    tokenizer = trained([[row[name] for row in rows for name in NAMES.values()] for rows in (PRIOR, NEW)])
    for row, sample in zip([*PRIOR, *NEW], [*pairing.pool.dataset, *pairing.new.train], strict=True):
        assert tokenizer.decode(sample["input_ids"][:-1]) == f"{row['question']}\n{row['equation']}"
        assert written(tokenizer, sample) == row["equation"]
        n = sample["labels"].count(-100)
        assert sample["labels"] == [-100] * n + sample["input_ids"][n:]
    assert pairing.columns["operation"].tolist() == ["add", "multiply"]


def test_seq2seq_samples_keep_prompt_and_target_apart(tmp_path):
    pairing = maths(tmp_path, form="seq2seq", tokenizer=300)
    tokenizer = trained([[row[name] for row in rows for name in NAMES.values()] for rows in (PRIOR, NEW)])
    for row, sample in zip(PRIOR, pairing.pool.dataset, strict=True):
        assert tokenizer.decode(sample["input_ids"][:-1]) == row["question"]
        assert written(tokenizer, sample) == row["equation"]


def test_translation_asks_for_each_language_by_name(tmp_path):
    rows = save_rows(tmp_path, "rows", SENTENCES, columns=["half"])
    pairing = translation_pairing(rows, prior=["de", "fr"], new=["cs"], tokenizer=300, batch_size=2)
    prior = [(f"{to}: {row['en']}", row[to]) for to in ("de", "fr") for row in SENTENCES]
    new = [(f"cs: {row['en']}", row["cs"]) for row in SENTENCES]
    # Each split once: a loader of the validation split gives the same rows here.
    for samples, expected in (
        (pairing.pool.dataset, prior),
        (pairing.prior_val.dataset, prior),
        (pairing.new.train, new),
        (pairing.new.val, new),
    ):
        tokenizer = trained([*prior, *new])
        found = [(tokenizer.decode(s["input_ids"][:-1]), written(tokenizer, s)) for s in samples]
        assert found == expected
    assert pairing.columns["language"].tolist() == ["de", "de", "fr", "fr"]
    assert pairing.columns["half"].tolist() == [0, 1, 0, 1]
    assert pairing.pool.pad_values == {"input_ids": 0}


def test_tokenizer_may_be_one_that_there_is(tmp_path):
    tokenizer = trained([["abc"]])
    tokenizer.bos_token = "<s>"  # noqa: S105
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    pairing = maths(tmp_path, form="causal", tokenizer=str(tmp_path / "tokenizer"))
    sample = pairing.pool.dataset[0]
    assert tokenizer.decode(sample["input_ids"]) == "<s>two and two\n+ 2 2</s>"
    assert sample["labels"][0] == -100


@pytest.mark.parametrize("text", ["", None])
def test_sentence_that_is_missing_in_one_language_is_named(tmp_path, text):
    rows = save_rows(tmp_path, "rows", [*SENTENCES, {**SENTENCES[0], "cs": text}])
    with pytest.raises(ValueError, match=r"Column 'cs' of split 'train' must hold a text .* in row 2"):
        translation_pairing(rows, prior=["de"], new=["cs"], tokenizer=300)


def test_tokenizer_that_cannot_end_a_text_is_refused(tmp_path):
    folder = save_tokenizer(tmp_path / "tokenizer")
    maths(tmp_path, form="seq2seq", tokenizer=folder)
    with pytest.raises(ValueError, match="`tokenizer` must have a token that ends a text"):
        maths(tmp_path, form="causal", tokenizer=folder)


def test_unknown_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`form` must be one of \['seq2seq', 'causal'\], got 'prefix'"):
        maths(tmp_path, form="prefix")
