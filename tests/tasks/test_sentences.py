import pytest

from lightning_mixcd import Ledger
from lightning_mixcd.partitions import ByColumn
from lightning_mixcd.record import record_ledger
from lightning_mixcd.tasks import SentenceClassifier, sentence_pairing
from lightning_mixcd.tasks.tokenizers import named_tokenizer
from tests.tasks.tiny import module, save_rows, save_tokenizer

PRIOR = [
    {"premise": "dogs run", "hypothesis": "who run ?", "label": 2, "genre": "b"},
    {"premise": "a table for two at eight", "hypothesis": "a table .", "label": 0, "genre": "a"},
    {"premise": "when", "hypothesis": "past eight", "label": 1, "genre": "b"},
]
NEW = [{"text": "who run", "label": 1}, {"text": "dogs", "label": 0}]
PAIR = {"names": {"text": "premise", "text_pair": "hypothesis"}}


@pytest.fixture
def tokenizer(tmp_path):
    return save_tokenizer(tmp_path / "tokenizer")


@pytest.fixture
def pairing(tmp_path, tokenizer):
    prior = save_rows(tmp_path, "prior", PRIOR, columns=["genre"], **PAIR)
    return sentence_pairing(prior, save_rows(tmp_path, "new", NEW), tokenizer=tokenizer, batch_size=2)


def test_samples_are_the_tokens_of_their_texts_with_their_classes(pairing, tokenizer):
    decode = named_tokenizer(tokenizer).decode
    for row, sample in zip(PRIOR, pairing.pool.dataset, strict=True):
        assert decode(sample["input_ids"]) == f"[CLS] {row['premise']} [SEP] {row['hypothesis']} [SEP]"
        first = len(row["premise"].split()) + 2
        assert sample["token_type_ids"] == [0] * first + [1] * (len(sample["input_ids"]) - first)
        assert sample["labels"] == row["label"]
    for row, sample in zip(NEW, pairing.new.train, strict=True):
        assert decode(sample["input_ids"]) == f"[CLS] {row['text']} [SEP]"
        assert sample["labels"] == row["label"]


def test_loaders_give_every_sample_once_padded_to_the_longest_of_the_batch(pairing):
    for loader in (pairing.prior.train_dataloader(), pairing.prior_val):
        batches = list(loader)
        assert [len(batch["labels"]) for batch in batches] == [2, 1]
        rows = []
        for batch in batches:
            lengths = batch["attention_mask"].sum(1)
            assert batch["input_ids"].shape[1] == lengths.max()
            rows += [ids[:n].tolist() for ids, n in zip(batch["input_ids"], lengths, strict=True)]
        assert sorted(rows) == sorted(sample["input_ids"] for sample in pairing.pool.dataset)


def test_names_of_classes_are_numbered_over_both_tasks(tmp_path, tokenizer):
    prior = [{"text": "dogs", "label": "no"}, {"text": "run", "label": "yes"}]
    new = [{"text": "who", "label": "maybe"}]
    pairing = sentence_pairing(
        save_rows(tmp_path, "prior", prior), save_rows(tmp_path, "new", new), tokenizer=tokenizer
    )
    assert [sample["labels"] for sample in [*pairing.new.train, *pairing.pool.dataset]] == [0, 1, 2]


def test_text_that_the_model_cannot_read_whole_is_refused(tmp_path):
    tokenizer = save_tokenizer(tmp_path / "short", limit=4)
    rows = save_rows(
        tmp_path, "rows", [{"text": "dogs", "label": 0}, {"text": "who run at eight", "label": 0}]
    )
    with pytest.raises(ValueError, match=r"at most 4 tokens.*got 6 in row 1"):
        sentence_pairing(rows, rows, tokenizer=tokenizer)


def test_columns_reach_partitions_through_the_ledger(pairing, tmp_path):
    record_ledger(module("sentences"), pairing.pool, tmp_path / "base.ledger", columns=pairing.columns)
    ledger = Ledger.open(tmp_path / "base.ledger")
    assert ByColumn("genre").bins(ledger).tolist() == [1, 0, 1]
    assert ledger.column("label").tolist() == [2, 0, 1]


def test_training_step_returns_what_the_model_returns(pairing):
    batch = next(iter(pairing.prior_val))
    model = module("sentences").eval()
    outputs, expected = model.training_step(batch, 0), model.network(**batch)
    assert type(outputs) is type(expected)
    assert outputs["logits"].equal(expected["logits"])
    assert isinstance(model, SentenceClassifier)
    assert model.scores(outputs, batch)["accuracy"].tolist() == [
        int(row.argmax()) == int(label) for row, label in zip(outputs.logits, batch["labels"], strict=True)
    ]
