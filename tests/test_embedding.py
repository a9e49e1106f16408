"""Features of models without a head that makes logits of one vector: `Readout(embedding=...)`."""

from collections import UserDict
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering, GPT2Config, GPT2LMHeadModel
from transformers.modeling_outputs import BaseModelOutput

from lightning_mixcd import (
    Auto,
    CaptureError,
    HeadProbe,
    IndexedDataset,
    Ledger,
    LedgerCallback,
    MixCD,
    Pool,
    PredictedForgetting,
    Readout,
    RehearsalCallback,
    record_ledger,
)
from lightning_mixcd.partitions import ByCluster
from lightning_mixcd.tasks import SpanReader
from tests.toys import Toy, finetune, pool, trainer

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
TOKENS = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))


class Gives(nn.Module):
    """Puts out what it is told to, through a part that has a name."""

    def __init__(self, output):
        super().__init__()
        self.output, self.encoder = output, nn.Identity()
        self.linear = nn.Linear(1, 2)

    def training_step(self, batch):
        self.encoder(self.output)
        return {"loss": torch.zeros(()), "correct": torch.ones(3, dtype=torch.bool)}


def features_of(output, batch, *, last=None):
    module, readout = Gives(output), Readout(embedding="encoder")
    with readout.attach(module, with_features=True):
        return readout.read(
            module.training_step(batch), batch, rows=3, last=last, with_features=True
        ).features


def slow_mean(tokens, mask):
    return torch.stack([row[seen.bool()].mean(dim=0) for row, seen in zip(tokens, mask, strict=True)])


@pytest.mark.parametrize("kind", [dict, UserDict, lambda given: SimpleNamespace(**given)])
def test_mean_is_taken_over_the_tokens_that_the_mask_has(kind):
    found = features_of(TOKENS, kind({"attention_mask": MASK}))
    torch.testing.assert_close(found, slow_mean(TOKENS, MASK))


def test_all_tokens_count_without_a_mask():
    torch.testing.assert_close(features_of(TOKENS, {"input_ids": MASK}), TOKENS.mean(dim=1))
    torch.testing.assert_close(features_of(TOKENS, (MASK, MASK)), TOKENS.mean(dim=1))


@pytest.mark.parametrize("padding", [torch.nan, torch.inf, 1e9])
def test_what_padding_holds_does_not_count(padding):
    padded = TOKENS.masked_fill(MASK[:, :, None] == 0, padding)
    torch.testing.assert_close(features_of(padded, {"attention_mask": MASK}), slow_mean(TOKENS, MASK))


def test_row_without_tokens_has_zeros():
    found = features_of(TOKENS, {"attention_mask": MASK * torch.tensor([[1], [0], [1]])})
    assert found[1].tolist() == [0.0] * 5


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda tokens: BaseModelOutput(last_hidden_state=tokens, hidden_states=(tokens + 1, tokens)),
        lambda tokens: {"last_hidden_state": tokens},
        lambda tokens: (tokens, "state"),
        lambda tokens: tokens,
    ],
)
def test_parts_that_submodules_put_out(wrapped):
    found = features_of(wrapped(TOKENS), {"attention_mask": MASK}, last=2)
    torch.testing.assert_close(found, slow_mean(TOKENS, MASK)[1:])


def test_vectors_are_taken_as_they_are():
    assert torch.equal(features_of(TOKENS[:, 0], {"attention_mask": MASK}, last=1), TOKENS[2:, 0])


@pytest.mark.parametrize(("dtype", "found"), [("bfloat16", "float32"), ("float64", "float64")])
def test_means_are_of_float32_at_least(dtype, found):
    vectors = features_of(TOKENS.to(getattr(torch, dtype)), {"attention_mask": MASK})
    assert vectors.dtype == getattr(torch, found)


@pytest.mark.parametrize(
    "output",
    [TOKENS[:2], TOKENS[:, :, :, None], MASK, "text", {"logits": TOKENS}, TOKENS[:, 0, 0], None],
)
def test_what_is_no_vector_per_row_is_refused(output):
    with pytest.raises(CaptureError, match="`embedding` must name a submodule that puts out vectors"):
        features_of(output, {"attention_mask": MASK})


def test_mask_of_other_tokens_is_refused():
    with pytest.raises(CaptureError, match=r"vector per token of `attention_mask`, \(3, 3\), got"):
        features_of(TOKENS, {"attention_mask": MASK[:, :3]})


def test_embedding_that_does_not_run_is_told():
    readout, batch = Readout(embedding="linear"), {"x": torch.zeros(3)}
    module = Gives(TOKENS)
    with (
        readout.attach(module, with_features=True),
        pytest.raises(CaptureError, match="must name a submodule that runs in `training_step`, got 'linear'"),
    ):
        readout.read(module.training_step(batch), batch, rows=3, with_features=True)


def test_embedding_must_be_there_and_excludes_a_head():
    with pytest.raises(CaptureError, match="`embedding` must name a submodule, got 'elsewhere'"):
        Readout(embedding="elsewhere").attach(Gives(TOKENS), with_features=True)
    with pytest.raises(CaptureError, match=r"`features` must name the head, .* embedding='encoder'"):
        Readout(embedding="encoder").head(Gives(TOKENS))
    with pytest.raises(ValueError, match="`embedding` must be left out where `features` names the head"):
        Readout(embedding="encoder", features="linear")


def test_nothing_is_hooked_where_no_features_are_asked_for():
    module = Gives(TOKENS)
    with Readout(embedding="encoder").attach(module):
        assert not module.encoder._forward_hooks


class Questions(torch.utils.data.Dataset):
    """Spans to be found, in texts of uneven length."""

    def __len__(self):
        return 24

    def __getitem__(self, k):
        n = 4 + k % 5
        ids = [2 + (k * j) % 9 for j in range(n)]
        return {"input_ids": ids, "start_positions": 1, "end_positions": k % 3 + 1}


def padded(samples):
    length = max(len(sample["input_ids"]) for sample in samples)
    ids = torch.tensor([s["input_ids"] + [0] * (length - len(s["input_ids"])) for s in samples])
    spans = {key: torch.tensor([s[key] for s in samples]) for key in ("start_positions", "end_positions")}
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), **spans}


def reader():
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=12,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return SpanReader(BertForQuestionAnswering(config), lr=1e-2)


def loader():
    return torch.utils.data.DataLoader(Questions(), 6, collate_fn=padded)


READOUT = Readout(embedding="network.bert")
PADDING = {"input_ids": 0, "attention_mask": 0}


def test_ledger_of_a_span_reader_has_features_of_what_it_read(tmp_path):
    module, texts = reader(), Pool(Questions(), collate_fn=padded, batch_size=5)
    ledger = record_ledger(module, texts, tmp_path / "base.ledger", keep=["features"], readout=READOUT)
    module.eval()
    for k in range(24):  # one by one, so that nothing is padded
        ids = torch.tensor([Questions()[k]["input_ids"]])
        hidden = module.network.bert(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        found = torch.tensor(ledger.column("features")[k].astype("float32"))
        torch.testing.assert_close(found, hidden[0].mean(dim=0), atol=2e-3, rtol=2e-3)  # kept in float16


@pytest.mark.parametrize("recorded", [False, True])
def test_forgetting_of_a_span_reader_is_predicted_from_them(tmp_path, recorded):
    strategy, texts = PredictedForgetting(rank=4), Pool(Questions(), collate_fn=padded, pad_values=PADDING)
    module = reader()
    if recorded:
        record_ledger(module, texts, tmp_path / "base.ledger", keep=["features"], readout=READOUT)
    callback = RehearsalCallback(
        strategy, pool=texts, mix_ratio=0.5, ledger=tmp_path / "base.ledger", readout=READOUT
    )
    trainer(callback, max_epochs=2).fit(module, loader())
    assert strategy._sums.shape == (5, 6)
    assert strategy._sums.abs().sum() > 0


def test_ledger_callback_keeps_them_too(tmp_path):
    dataset = IndexedDataset(Questions(), collate_fn=padded)
    kept = LedgerCallback(tmp_path / "base.ledger", dataset, keep=["features"], readout=READOUT)
    trainer(kept, max_epochs=1).fit(reader(), dataset.loader(batch_size=6))
    ledger = Ledger.open(tmp_path / "base.ledger")
    assert ledger.column("features").shape == (24, 8)
    assert len(ByCluster(3).assign(ledger)) == 24


def test_what_needs_a_head_is_refused_and_auto_takes_the_other(tmp_path, caplog):
    readout = Readout(embedding="net.2")
    ledger = record_ledger(Toy(), pool(), tmp_path / "base.ledger", keep=["features"], readout=readout)
    data = torch.utils.data.DataLoader(finetune(), 8)
    given = {"pool": pool(), "mix_ratio": 0.5, "ledger": ledger, "readout": readout}
    with pytest.raises(CaptureError, match="`features` must name the head"):
        trainer(RehearsalCallback(HeadProbe(), **given)).fit(Toy(), data)
    strategy = Auto(HeadProbe(), MixCD())
    with caplog.at_level("INFO", logger="lightning_mixcd"):
        trainer(RehearsalCallback(strategy, **given)).fit(Toy(), data)
    assert isinstance(strategy.chosen, MixCD)
    assert "`features` must name the head" in caplog.text


def test_features_of_a_language_model():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=12, n_embd=8, n_head=2, n_layer=1, n_positions=16)
    model, whole = GPT2LMHeadModel(config).eval(), padded([Questions()[k] for k in range(3)])
    batch = {key: whole[key] for key in ("input_ids", "attention_mask")}
    readout = Readout(embedding="transformer", correctness=lambda outputs, _: outputs.logits[:, 0, 0] > 0)
    with readout.attach(model, with_features=True):
        found = readout.read(model(**batch), batch, with_features=True).features
    expected = slow_mean(model.transformer(**batch).last_hidden_state, batch["attention_mask"])
    torch.testing.assert_close(found, expected)


def test_head_that_gets_tokens_says_what_to_do():
    module, readout = reader(), Readout(features="network.qa_outputs")
    batch = padded([Questions()[k] for k in range(3)])
    with (
        readout.attach(module, with_features=True),
        pytest.raises(CaptureError, match=r'no head, name .*: Readout\(embedding="encoder"\)'),
    ):
        readout.read(module.training_step(batch, 0), batch, with_features=True)
