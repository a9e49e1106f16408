"""Several pools as one: which sample is where, and what cannot be put together."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset, default_collate

from lightning_mixcd import Pool, RehearsalCallback, Streams, Uniform, record_ledger, union_pool
from lightning_mixcd.partitions import ByColumn
from tests.toys import POOL_IDS, Finetune, Toy, flat, pool, rehearsed, task, trainer


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_index_is_that_of_the_parts_put_in_a_row(sizes):
    parts = {f"part {k}": [10 * k + i for i in range(size)] for k, size in enumerate(sizes)}
    whole, stage = union_pool(parts)
    expected = [(name, value) for name, values in parts.items() for value in values]
    assert len(whole) == len(expected)
    assert [(stage[i], whole.dataset[i]) for i in range(len(whole))] == expected


def test_ledger_and_rehearsal_see_the_samples_of_all_parts(tmp_path):
    parts = {"base": pool(), "first": task(30, seed=5, first_id=POOL_IDS + 60)}
    whole, stage = union_pool(parts)
    ledger = record_ledger(Toy(), whole, tmp_path / "ledger", columns={"stage": stage})
    for part, dataset in (("base", pool()), ("first", parts["first"])):
        alone = record_ledger(Toy(), dataset, tmp_path / part)
        assert ledger.correct[stage == part].tolist() == alone.correct.tolist()
        assert ledger.loss[stage == part] == pytest.approx(alone.loss)
    assert ByColumn("stage").bins(ledger).tolist() == 60 * [0] + 30 * [1]
    module = Toy()
    callback = RehearsalCallback(Uniform(), pool=whole, ledger=ledger, mix_ratio=1.0)
    trainer(callback, max_epochs=9).fit(module, datamodule=Finetune())
    # The features that the toys were given name the sample; 360 uniform draws miss none of 90 for long.
    assert {*flat(rehearsed(module))} == {*range(90)}


def test_parts_need_names():
    with pytest.raises(TypeError, match="`pools` must name each part, got list"):
        union_pool([range(3), range(4)])


def test_settings_are_kept():
    settings = {"num_workers": 2, "lag": 6, "pad_values": {"x": 0}, "unreadable": "skip"}
    whole, _ = union_pool({"a": Pool(range(3), **settings), "b": Pool(range(4), **settings)})
    assert {name: getattr(whole, name) for name in settings} == settings


def test_the_usual_collate_function_is_the_same_whether_named_or_not():
    whole, _ = union_pool({"a": range(3), "b": Pool(range(4), collate_fn=default_collate)})
    assert len(whole) == 7


@pytest.mark.parametrize(
    ("setting", "values"),
    [("collate_fn", (partial(default_collate), None)), ("pad_values", ({"x": 0}, {"x": 1})), ("lag", (8, 4))],
)
def test_other_settings_are_refused(setting, values):
    parts = {name: Pool(range(3), **{setting: value}) for name, value in zip("ab", values, strict=True)}
    with pytest.raises(
        ValueError, match=rf"`pools` must have one `{setting}`, got .* for 'a' and .* for 'b'"
    ):
        union_pool(parts)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        ([{"x": torch.zeros(2)}], "y"),
        ([{"x": torch.zeros(2), "y": 0, "z": 0}], "parts"),
        ([{"x": torch.zeros(3), "y": 0}], "size"),
        ([{"x": torch.zeros(2, dtype=torch.int64), "y": 0}], "dtype"),
        ([(torch.zeros(2), 0)], "indices"),
    ],
)
def test_samples_that_cannot_share_a_batch_are_refused(other, complaint):
    parts = {"a": [{"x": torch.zeros(2), "y": 0}], "b": other}
    with pytest.raises(
        ValueError, match=rf"`pools` must have samples that can share .*'a'.*'b'.*{complaint}"
    ):
        union_pool(parts)


def test_samples_of_other_lengths_are_for_the_collate_function_to_pad():
    def collate(samples):
        return {"input_ids": torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)}

    pools = {str(n): Pool([torch.ones(n)], collate_fn=collate) for n in (2, 3)}
    assert len(union_pool(pools)[0]) == 2


def test_looking_at_samples_leaves_the_global_random_state():
    class Augmented(TensorDataset):
        def __getitem__(self, index):
            return super().__getitem__(index)[0] + torch.randn(2)

    data = Augmented(torch.zeros(3, 2))
    state = torch.get_rng_state()
    union_pool({"a": data, "b": data})
    assert torch.equal(state, torch.get_rng_state())


def test_streams_and_nothing_are_refused():
    with pytest.raises(
        TypeError, match=r"`pools` must be map-style, got `Streams` for 'b'\. Put all streams"
    ):
        union_pool({"a": range(3), "b": Pool(Streams({"x": []}))})
    with pytest.raises(ValueError, match=r"`pools` must hold at least one pool, got none"):
        union_pool({})
