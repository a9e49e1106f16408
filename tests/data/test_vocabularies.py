"""Pools and finetune data of tokenizers that do not fit are refused, whoever wrote the module."""

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
from torch.utils.data import DataLoader, default_collate

from lightning_mixcd import Pool, RehearsalCallback, RehearsalDataModule, Uniform
from lightning_mixcd.data.vocabularies import check_alike
from tests.toys import Toy, finetune, pool, trainer

WORDS = {"[PAD]": 0, "a": 1, "b": 2}


class Collator:
    """As Transformers' `DataCollatorWithPadding`."""

    def __init__(self, **vocabulary):
        self.tokenizer = SimpleNamespace(get_vocab=lambda: vocabulary)

    def __call__(self, rows):
        return default_collate(rows)


def source(collate_fn):
    return SimpleNamespace(collate_fn=collate_fn)


@pytest.mark.parametrize("other", [{"[PAD]": 0, "a": 2, "b": 1}, {"x": 0}, {**WORDS, "b": 3, "c": 2}])
def test_other_numbers_are_refused(other):
    with pytest.raises(ValueError, match=r"The pool must be .* of the new data, .* of 3 tokens, got another"):
        check_alike("new data", source(Collator(**WORDS)), "pool", source(Collator(**other)))


@pytest.mark.parametrize(
    "other", [Collator(**WORDS), Collator(**WORDS, c=3), Collator(a=1), None, len, object()]
)
def test_what_fits_and_what_is_not_known_passes(other):
    check_alike("new data", source(Collator(**WORDS)), "pool", source(other))
    check_alike("pool", source(other), "new data", source(Collator(**WORDS)))


def padding(side):
    collate_fn = Collator(**WORDS)
    collate_fn.tokenizer.padding_side, collate_fn.tokenizer.pad_token_id = side, 0
    return collate_fn


def test_pool_that_would_be_padded_on_the_other_side_is_refused():
    new = source(padding("left"))
    with pytest.raises(ValueError, match=r"new data and the pool must pad on one side, .*pad_values"):
        check_alike("new data", new, "pool", Pool([1], collate_fn=padding("right")))
    check_alike("new data", new, "pool", Pool([1], collate_fn=padding("left")))
    check_alike("new data", new, "pool", Pool([1], collate_fn=padding("right"), pad_values={"input_ids": 0}))
    check_alike("new data", new, "validation data", source(padding("right")))  # these are not joined


class Apart(Toy):
    def rehearsal_step(self, batch, batch_idx):
        return self.training_step(batch, batch_idx)


@pytest.mark.parametrize(("module", "numbers"), [(Toy, [0, 2]), (Toy, [0, 1]), (Apart, [0, 2])])
def test_callback_asks_before_the_first_step(module, numbers):
    theirs, ours = Collator(a=0, b=1), Collator(**dict(zip("ab", numbers, strict=True)))
    model, data = module(), DataLoader(finetune(), 8, collate_fn=theirs)
    run = trainer(RehearsalCallback(Uniform(), pool=Pool(pool(), collate_fn=ours)))
    if module is Toy and numbers == [0, 2]:
        with pytest.raises(ValueError, match=r"of 2, with the same number for 1 of the 2 tokens in both"):
            run.fit(model, data)
        assert model.seen == []
    else:
        run.fit(model, data)
        assert model.seen


def test_loader_of_an_order_of_ours_is_asked_too():
    class New(pl.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(finetune(), 8, collate_fn=Collator(a=0, b=1))

    data = RehearsalDataModule(New(), Pool(pool(), collate_fn=Collator(a=1, b=0)), order_seed=0)
    with pytest.raises(ValueError, match="must be read by the tokenizer of the finetune data"):
        trainer(RehearsalCallback(Uniform())).fit(Toy(), datamodule=data)
