"""Batches of every structure in real runs, up to Hugging Face models that are trained as they are."""

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_mixcd import JoinError, Ledger, MixCD, Pool, RehearsalCallback, Uniform, record_ledger
from tests.toys import Toy, finetune, ledger, pool, trainer, weights


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Record:
    x: Tensor
    y: Tensor


def as_dict(samples):
    x, y = default_collate(samples)
    return {"x": x, "y": y, "task": "digits"}


def as_nested(samples):
    x, y = default_collate(samples)
    return {"inputs": (x[:, :2], {"rest": x[:, 2:]}), "names": [str(int(v)) for v in x[:, -1]], "y": y}


COLLATES = {
    "tuple": lambda samples: tuple(default_collate(samples)),
    "list": default_collate,
    "named tuple": lambda samples: Pair(*default_collate(samples)),
    "dict": as_dict,
    "nested": as_nested,
    "dataclass": lambda samples: Record(*default_collate(samples)),
    "tensor": lambda samples: torch.cat(
        [default_collate(samples)[0], default_collate(samples)[1][:, None]], 1
    ),
}


class AnyBatch(Toy):
    """The same task on every structure."""

    def features_and_labels(self, batch: Any) -> tuple[Tensor, Tensor]:
        self.kind = type(batch)
        if isinstance(batch, Tensor):
            return batch[:, :-1], batch[:, -1].long()
        if isinstance(batch, dict) and "inputs" in batch:
            first, rest = batch["inputs"]
            assert batch["names"] == [str(int(v)) for v in rest["rest"][:, -1]]
            return torch.cat([first, rest["rest"]], 1), batch["y"]
        if isinstance(batch, dict):
            return batch["x"], batch["y"]
        return (batch.x, batch.y) if isinstance(batch, Record | Pair) else (batch[0], batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        given = super().training_step(batch, batch_idx)
        _, y = self.features_and_labels(batch)
        return {**given, "correct": given["logits"].argmax(1) == y}


@pytest.mark.parametrize("kind", list(COLLATES))
def test_every_structure_gives_the_same_run(kind):
    collate = COLLATES[kind]
    runs = []
    for one in (collate, default_collate):
        module, strategy = AnyBatch(), MixCD()
        callback = RehearsalCallback(
            strategy, pool=Pool(pool(), collate_fn=one), ledger=ledger(), mix_ratio=0.4
        )
        trainer(callback, max_epochs=2).fit(module, DataLoader(finetune(), 8, collate_fn=one))
        runs.append((module.seen, weights(module), strategy.signal()))
    assert runs[0][0] == runs[1][0]
    # Tensors of other strides are multiplied in another order by some processors.
    torch.testing.assert_close(runs[0][1:], runs[1][1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("fine", "other", "message"),
    [
        (
            as_dict,
            lambda s: {**as_dict(s), "task": "letters"},
            r'batch\["task"\] must be alike.*\'digits\' in the',
        ),
        (as_dict, lambda s: {"x": as_dict(s)["x"]}, r"lacks \['y', 'task'\]"),
        (as_dict, default_collate, "batch must be alike.* a dict in the finetune batch and a list"),
        (
            default_collate,
            lambda s: [default_collate(s)[0].double(), default_collate(s)[1]],
            r"batch\[0\].*float64",
        ),
        (
            default_collate,
            lambda s: [default_collate(s)[0][:, :3], default_collate(s)[1]],
            r"batch\[0\].*length 5",
        ),
    ],
)
def test_pool_of_another_structure_is_refused_before_the_first_step(fine, other, message):
    module = AnyBatch()
    with pytest.raises(JoinError, match=message):
        trainer(RehearsalCallback(Uniform(), pool=Pool(pool(), collate_fn=other))).fit(
            module, DataLoader(finetune(), 8, collate_fn=fine)
        )
    assert module.seen == []


# Hugging Face.


class Texts(Dataset):
    """Token ids whose class is whether more of them are even; lengths vary."""

    def __init__(self, n: int, *, seed: int, longest: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(3, longest + 1, (n,), generator=generator).tolist()
        self.texts = [torch.randint(2, 30, (length,), generator=generator).tolist() for length in lengths]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        text = self.texts[index]
        return {"input_ids": text, "labels": int(sum(t % 2 for t in text) * 2 > len(text))}


PAD = 1


def pad(samples: list[dict[str, Any]]) -> Any:
    """What a tokenizer's collator makes: a `BatchEncoding`, padded to its own longest text."""
    transformers = pytest.importorskip("transformers")
    longest = max(len(s["input_ids"]) for s in samples)
    rows = [s["input_ids"] + [PAD] * (longest - len(s["input_ids"])) for s in samples]
    ids = torch.tensor(rows)
    labels = torch.tensor([s["labels"] for s in samples])
    return transformers.BatchEncoding({
        "input_ids": ids,
        "attention_mask": (ids != PAD).long(),
        "labels": labels,
    })


def tiny_model() -> Any:
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    config = transformers.DistilBertConfig(
        vocab_size=30,
        dim=16,
        hidden_dim=16,
        n_layers=1,
        n_heads=2,
        max_position_embeddings=16,
        dropout=0.0,
        attention_dropout=0.0,
        seq_classif_dropout=0.0,
        pad_token_id=PAD,
    )
    torch.manual_seed(0)
    return transformers.DistilBertForSequenceClassification(config).train()


class Finetuner(pl.LightningModule):
    """As many write it: the model's output is what the step returns."""

    def __init__(self) -> None:
        super().__init__()
        self.model = tiny_model()
        self.given: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if torch.is_grad_enabled():
            self.given.append(batch)
        return self.model(**batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-2)


SHORT, LONG = Texts(24, seed=0, longest=5), Texts(40, seed=1, longest=12)


@pytest.mark.parametrize(("fine", "earlier"), [(SHORT, LONG), (LONG, SHORT)])
def test_hugging_face_model_is_finetuned_as_it_is(fine, earlier, tmp_path):
    module, strategy = Finetuner(), MixCD()
    data = Pool(earlier, collate_fn=pad, pad_values={"input_ids": PAD}, lag=1)
    callback = RehearsalCallback(strategy, pool=data, ledger=tmp_path / "l", mix_ratio=0.5)
    trainer(callback, max_epochs=2).fit(module, DataLoader(fine, 8, collate_fn=pad))
    texts = {tuple(t) for t in earlier.texts}
    for batch in module.given:
        assert type(batch).__name__ == "BatchEncoding"
        assert len({len(part) for part in batch.values()}) == 1
        rows = [[t for t in row.tolist() if t != PAD] for row in batch["input_ids"]]
        assert [sum(mask) for mask in batch["attention_mask"].tolist()] == [len(row) for row in rows]
        assert len(rows) == 12
        assert all(tuple(row) in texts for row in rows[8:])
    assert float(strategy.estimator.seen.sum()) > 0
    # The ledger is what the model says of each text by itself.
    base, record = tiny_model().eval(), Ledger.open(tmp_path / "l")
    with torch.no_grad():
        for i in range(0, len(earlier), 7):
            alone = base(**pad([earlier[i]]))
            assert bool(record.correct[i]) == (int(alone.logits.argmax()) == earlier[i]["labels"])
            assert float(record.loss[i]) == pytest.approx(float(alone.loss), abs=1e-4)


def test_ledger_of_a_bare_hugging_face_model(tmp_path):
    data = Pool(LONG, collate_fn=pad)
    bare = record_ledger(tiny_model(), data, tmp_path / "bare", batch_size=16)
    wrapped = record_ledger(Finetuner(), data, tmp_path / "wrapped", batch_size=16)
    assert bare.correct.tolist() == wrapped.correct.tolist()
    assert bare.column("label").tolist() == [LONG[i]["labels"] for i in range(len(LONG))]


def test_padding_must_be_named_where_the_tokenizer_decides_it(tmp_path):
    module = Finetuner()
    data = Pool(LONG, collate_fn=pad)
    with pytest.raises(
        JoinError, match=r'batch\["input_ids"\] must be alike.*Pass `Pool\(..., pad_values=\{\'input_ids\''
    ):
        trainer(RehearsalCallback(Uniform(), pool=data)).fit(module, DataLoader(SHORT, 8, collate_fn=pad))
    assert module.given == []
