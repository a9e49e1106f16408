"""What does not fit together is refused before the first step, however it is wired."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from transformers import BertConfig, DataCollatorWithPadding, EncoderDecoderConfig, EncoderDecoderModel

from lightning_mixcd import (
    Ledger,
    Pool,
    RehearsalCallback,
    RehearsalDataModule,
    Uniform,
    record_ledger,
)
from lightning_mixcd.tasks import SentenceClassifier, load_network
from lightning_mixcd.tasks.checks import check_inputs
from lightning_mixcd.tasks.tokenized import TokenizedDataModule
from lightning_mixcd.tasks.tokenizers import trained_tokenizer
from tests.tasks.test_transformer import tokenized
from tests.tasks.tiny import BART, BERT, GPT2, WORDS, collator, module
from tests.toys import QUIET


class Steps(SentenceClassifier):
    """Counts the steps that it is trained by."""

    steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += self.training
        return super().training_step(batch, batch_idx)


def classifier(**settings):
    return Steps(load_network("SequenceClassification", {**BERT, **settings}, num_labels=3))


SAMPLES = tokenized("sentences", 6, seed=1)
OTHER = DataCollatorWithPadding(trained_tokenizer(WORDS, 300))


def fit(
    model,
    *,
    sanity=0,
    samples=SAMPLES,
    pool=SAMPLES,
    val=SAMPLES,
    pool_collator=None,
    by_callback=False,
    order_seed=None,
    ledger=None,
):
    collate = collator("sentences")
    finetune = TokenizedDataModule(samples, val, collate, batch_size=3)
    pool = Pool(pool, collate_fn=pool_collator or collate, pad_values={"input_ids": 0})
    right = Ledger.from_arrays(correct=np.ones(len(pool), dtype=bool), loss=np.zeros(len(pool)))
    ledger = ledger or right
    given = {"mix_ratio": 0.5, "ledger": ledger}
    if by_callback:
        data, rehearsal = finetune, RehearsalCallback(Uniform(), pool=pool, **given)
    else:
        data = RehearsalDataModule(finetune, pool, order_seed=order_seed, **given)
        rehearsal = RehearsalCallback(Uniform())
    Trainer(callbacks=[rehearsal], **{**QUIET, "max_epochs": 1, "num_sanity_val_steps": sanity}).fit(
        model, datamodule=data
    )


def refused(model, match, **given):
    for sanity in (0, 2):
        with pytest.raises(ValueError, match=match):
            fit(model, sanity=sanity, **given)
    assert model.steps == 0


def test_what_fits_is_trained():
    model = classifier()
    fit(model)
    assert model.steps > 0


@pytest.mark.parametrize("by_callback", [False, True])
def test_pool_of_another_tokenizer_is_refused(by_callback):
    match = r"The pool must be read by .* a .* of 18 tokens, got another: .* of 289, .* in both\. Tokenize"
    refused(classifier(vocab_size=300), match, pool_collator=OTHER, by_callback=by_callback)


def test_tokenizer_with_more_tokens_than_the_model_is_refused():
    match = r"tokenizer of the pool must have at most the 17 tokens of the model, got 18"
    refused(classifier(vocab_size=17), match)


@pytest.mark.parametrize("where", ["samples", "pool", "val"])
def test_text_that_is_longer_than_the_model_reads_is_refused(where):
    long = [*SAMPLES, {**SAMPLES[0], "input_ids": [4] * 21}]
    refused(classifier(max_position_embeddings=20), r"at most 20 tokens.*got 21 in row 6", **{where: long})


XLNET = {"model_type": "xlnet", "vocab_size": 300, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def asked(network, kind, samples):
    """Ask whether a model fits these samples, as the trainer would be given them."""
    data = TokenizedDataModule(samples, samples, collator(kind))
    trainer = SimpleNamespace(
        train_dataloader=data.train_dataloader(), val_dataloaders=data.val_dataloader(), callbacks=[]
    )
    check_inputs(trainer, SimpleNamespace(network=network))


def test_target_that_is_longer_than_the_model_writes_is_refused():
    network = load_network("Seq2SeqLM", BART, max_position_embeddings=9)
    asked(network, "seq2seq", [{"input_ids": [5] * 9, "labels": [5] * 9}])
    with pytest.raises(ValueError, match=r"Every target must have at most 9 tokens.*got 10 in row 1"):
        asked(network, "seq2seq", [{"input_ids": [5], "labels": [5] * n} for n in (9, 10)])


def test_positions_that_a_model_keeps_for_padding_do_not_count():
    model = {"model_type": "roberta", "vocab_size": 40, "pad_token_id": 1, "max_position_embeddings": 12}
    network = load_network("SequenceClassification", {**model, **SMALL})
    samples = [{"input_ids": [5] * n, "labels": 0} for n in (10, 11)]
    asked(network, "sentences", samples[:1])
    network(input_ids=torch.tensor([samples[0]["input_ids"]]))
    with pytest.raises(ValueError, match=r"at most 10 tokens.*got 11 in row 1"):
        asked(network, "sentences", samples)


def test_model_that_tells_no_limit_has_none():
    asked(load_network("CausalLM", XLNET), "causal", [{"input_ids": [5], "labels": [5]}])


def test_model_of_two_models_is_asked_about_its_texts():
    part = {key: value for key, value in BERT.items() if key != "model_type"}
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*2 * [BertConfig(**part)])
    network = EncoderDecoderModel(config)
    asked(network, "spans", [{"input_ids": [5]}])
    with pytest.raises(ValueError, match="at most the 40 tokens of the model, got 289"):
        asked(network, "seq2seq", [{"input_ids": [5], "labels": [5]}])


@pytest.mark.parametrize("pad_token_id", [None, 4])
def test_model_that_takes_padding_for_the_end_of_a_text_is_refused(pad_token_id):
    given = {"num_labels": 3, "bos_token_id": None, "eos_token_id": None}
    asked(load_network("SequenceClassification", GPT2, **given), "sentences", SAMPLES)
    network = load_network("SequenceClassification", {**GPT2, "pad_token_id": pad_token_id}, **given)
    match = rf"by the token 0, .*got `pad_token_id` {pad_token_id}\. Set it.*pad_token_id=0"
    with pytest.raises(ValueError, match=match):
        asked(network, "sentences", SAMPLES)
    with pytest.raises(ValueError, match="last position, where padding is, as XLNetForSequence"):
        asked(load_network("SequenceClassification", XLNET, num_labels=3), "sentences", SAMPLES)


@pytest.mark.parametrize("where", ["samples", "pool", "val"])
def test_label_that_is_no_class_of_the_model_is_refused(where):
    rows = [*SAMPLES, {**SAMPLES[0], "labels": 3}]
    refused(classifier(), r"must be below the 3 classes of the model, got 3\.", **{where: rows})


@pytest.mark.parametrize("order_seed", [None, 0])
def test_finetune_data_are_asked_about_in_any_order(order_seed):
    """Also where the order resumes exactly."""
    rows = [*SAMPLES, {**SAMPLES[0], "labels": 3}]
    refused(classifier(), r"Labels of the finetune data must be below", samples=rows, order_seed=order_seed)
    long = [*SAMPLES, {**SAMPLES[0], "input_ids": [4] * 21}]
    model = classifier(max_position_embeddings=20)
    refused(model, r"at most 20 tokens.*got 21 in row 6", samples=long, order_seed=order_seed)


@pytest.mark.parametrize("by_callback", [False, True])
def test_pool_is_asked_before_a_ledger_is_recorded(by_callback, tmp_path):
    long = [*SAMPLES, {**SAMPLES[0], "input_ids": [4] * 21}]
    model = classifier(max_position_embeddings=20)
    with pytest.raises(ValueError, match=r"at most 20 tokens.*got 21 in row 6"):
        fit(model, pool=long, by_callback=by_callback, ledger=tmp_path / "base.ledger")
    assert not (tmp_path / "base.ledger").exists()


def test_pool_may_have_inputs_of_its_own_where_it_has_a_step_of_its_own():
    class Apart(Steps):
        def rehearsal_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx)

    model = Apart(classifier(vocab_size=300).network)
    fit(model, pool_collator=OTHER)
    assert model.steps > 0


@pytest.mark.parametrize("kind", ["spans", "seq2seq", "causal"])
def test_every_kind_is_asked(kind, monkeypatch):
    model, asked = module(kind), []
    monkeypatch.setattr("lightning_mixcd.tasks.transformer.check_inputs", lambda *given: asked.append(given))
    samples = tokenized(kind, 4, seed=0)
    data = TokenizedDataModule(samples, samples, collator(kind), batch_size=2)
    trainer = Trainer(**{**QUIET, "max_epochs": 1})
    trainer.fit(model, datamodule=data)
    assert {*asked} == {(trainer, model)}


def test_rows_of_tensors_are_rows_too():
    tensors = [{key: torch.tensor(value) for key, value in sample.items()} for sample in SAMPLES]
    fit(classifier(max_position_embeddings=20), samples=tensors, pool=tensors, val=tensors)


def test_ledger_of_full_precision_serves_a_module_that_is_converted(tmp_path):
    model = classifier()
    pool = Pool(SAMPLES, collate_fn=collator("sentences"), pad_values={"input_ids": 0})
    recorded = record_ledger(model, pool, tmp_path / "base.ledger")
    rehearsal = RehearsalCallback(Uniform(), pool=pool, ledger=recorded)
    finetune = TokenizedDataModule(SAMPLES, SAMPLES, collator("sentences"), batch_size=3)
    Trainer(callbacks=[rehearsal], precision="bf16-true", max_epochs=1, **QUIET).fit(
        model, datamodule=finetune
    )
