"""Joining batches: the oracle is collating all samples at once."""

import copy
import dataclasses
from collections import OrderedDict, UserDict, defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from lightning_mixcd.errors import JoinError
from lightning_mixcd.functional.joining import join, n_rows, split_rows, take_rows


class Pair(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass(frozen=True)
class Record:
    x: Any
    y: Any


@dataclasses.dataclass
class Scaled:
    x: torch.Tensor

    def __post_init__(self):
        self.x = self.x / 10


@dataclasses.dataclass
class Derived:
    x: Any
    size: int = dataclasses.field(init=False)

    def __post_init__(self):
        self.size = len(self.x)


class Tagged(UserDict):
    tag = "none"


def assert_same(left, right):
    """Same types, keys and values all the way down, tensors bit for bit."""
    assert type(left) is type(right)
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, Mapping):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right


# A sample maker takes the number of a sample and gives the sample.
LEAF_MAKERS = [
    lambda i: torch.full((2, 3), float(i)),
    lambda i: torch.tensor(i, dtype=torch.int32),
    lambda i: torch.tensor([i % 2 == 0]),
    lambda i: torch.full((3,), i, dtype=torch.float16),
    lambda i: i,
    lambda i: i / 2,
    lambda i: f"sample {i}",
    lambda i: bytes([i]),
]


def _mapping_of(kind):
    return lambda makers: lambda i: kind({name: make(i) for name, make in makers.items()})


def _sequence_of(kind):
    return lambda makers: lambda i: kind(make(i) for make in makers)


def sample_makers():
    names = st.sampled_from(["image", "labels", "a", 3])
    return st.recursive(
        st.sampled_from(LEAF_MAKERS),
        lambda inner: st.one_of(
            st.dictionaries(names, inner, max_size=3).map(_mapping_of(dict)),
            st.dictionaries(names, inner, max_size=3).map(_mapping_of(OrderedDict)),
            st.dictionaries(names, inner, max_size=3).map(_mapping_of(Tagged)),
            st.lists(inner, max_size=3).map(_sequence_of(list)),
            st.lists(inner, max_size=3).map(_sequence_of(tuple)),
            st.tuples(inner, inner).map(lambda makers: lambda i: Pair(makers[0](i), makers[1](i))),
        ),
        max_leaves=6,
    )


class TestOracle:
    @given(sample_makers(), st.integers(1, 4), st.integers(1, 4))
    def test_joining_is_collating_all_samples_at_once(self, make, n_finetune, n_pool):
        samples = [(make(i), i) for i in range(n_finetune + n_pool)]
        finetune, pool = default_collate(samples[:n_finetune]), default_collate(samples[n_finetune:])
        assert_same(join(finetune, pool), default_collate(samples))

    @given(sample_makers(), st.integers(1, 4), st.integers(1, 4))
    def test_taking_gives_each_side_back(self, make, n_finetune, n_pool):
        samples = [(make(i), i) for i in range(n_finetune + n_pool)]
        finetune, pool = default_collate(samples[:n_finetune]), default_collate(samples[n_finetune:])
        joined = join(finetune, pool)
        assert n_rows(joined) == n_finetune + n_pool
        assert_same(take_rows(joined, 0, n_finetune), finetune)
        assert_same(take_rows(joined, n_finetune, n_finetune + n_pool), pool)

    @given(sample_makers(), st.integers(1, 5), st.integers(1, 6))
    def test_splitting_is_taking_again_and_again(self, make, n, size):
        batch = default_collate([(make(i), i) for i in range(n)])
        parts = split_rows(batch, size)
        assert [n_rows(part) for part in parts] == [len(range(n)[i : i + size]) for i in range(0, n, size)]
        for part, start in zip(parts, range(0, n, size), strict=True):
            assert_same(part, take_rows(batch, start, min(start + size, n)))

    @given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.data())
    def test_padding_is_pad_sequence(self, lengths, data):
        cut = data.draw(st.integers(1, len(lengths) - 1))
        rows = [torch.arange(1, length + 1) + 10 * i for i, length in enumerate(lengths)]
        finetune, pool = (pad_sequence(part, True, padding_value=-7) for part in (rows[:cut], rows[cut:]))
        joined = join({"tokens": finetune}, {"tokens": pool}, pad_values={"tokens": -7})
        assert torch.equal(joined["tokens"], pad_sequence(rows, True, padding_value=-7))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize(("long_side", "short_side"), [(0, 1), (1, 0)])
    def test_float_sequences_with_features_are_padded_too(self, dtype, long_side, short_side):
        rows = [
            torch.randn(4, 2, generator=torch.Generator().manual_seed(0)).to(dtype),
            torch.ones(3, 2, dtype=dtype),
        ]
        sides = {"x": rows[long_side][None]}, {"x": rows[short_side][None]}
        expected = pad_sequence([rows[long_side], rows[short_side]], True, padding_value=0.5)
        assert_same(join(*sides, pad_values={"x": 0.5}), {"x": expected})


class TestStructures:
    def test_dataclasses_are_replaced(self):
        joined = join(Record(torch.zeros(2), ["a", "b"]), Record(torch.ones(1), ["c"]))
        assert_same(joined, Record(torch.tensor([0.0, 0.0, 1.0]), ["a", "b", "c"]))

    def test_a_list_of_dataclasses_is_a_structure(self):
        joined = join([Record(torch.zeros(2), "nli")], [Record(torch.ones(1), "nli")])
        assert_same(joined, [Record(torch.tensor([0.0, 0.0, 1.0]), "nli")])

    def test_fields_changed_by_post_init_are_changed_once(self):
        joined = join(Scaled(torch.tensor([10.0])), Scaled(torch.tensor([20.0, 30.0])))
        assert joined.x.tolist() == [1, 2, 3]
        assert take_rows(joined, 1, 3).x.tolist() == [2, 3]

    def test_fields_made_by_post_init_are_made_again(self):
        joined = join(Derived(torch.zeros(2)), Derived(torch.zeros(3)))
        assert joined.size == 5
        assert take_rows(joined, 1, 3).size == 2

    def test_mappings_keep_type_and_attributes(self):
        finetune, pool = Tagged(x=torch.zeros(2)), Tagged(x=torch.ones(1))
        finetune.tag, pool.tag = "finetune", "pool"
        joined = join(finetune, pool)
        assert (type(joined), joined.tag) == (Tagged, "finetune")

    def test_default_factories_survive(self):
        joined = join(defaultdict(list, x=torch.zeros(2)), defaultdict(list, x=torch.ones(1)))
        assert joined["unseen"] == []

    def test_read_only_mappings_are_made_again(self):
        joined = join(MappingProxyType({"x": torch.zeros(2)}), MappingProxyType({"x": torch.ones(1)}))
        assert_same(joined, MappingProxyType({"x": torch.tensor([0.0, 0.0, 1.0])}))

    def test_order_of_keys_is_that_of_the_finetune_batch(self):
        joined = join({"a": torch.zeros(1), "b": ["x"]}, {"b": ["y"], "a": torch.ones(1)})
        assert list(joined) == ["a", "b"]

    def test_batch_encodings(self):
        transformers = pytest.importorskip("transformers")
        finetune, pool = (
            transformers.BatchEncoding({"input_ids": ids, "attention_mask": ids.gt(0)}, n_sequences=2)
            for ids in (torch.tensor([[4, 5, 6]]), torch.tensor([[7, 0], [8, 9]]))
        )
        joined = join(finetune, pool, pad_values={"input_ids": 0})
        assert type(joined) is transformers.BatchEncoding
        assert joined.n_sequences == 2
        assert joined["input_ids"].tolist() == [[4, 5, 6], [7, 0, 0], [8, 9, 0]]
        assert torch.equal(joined["attention_mask"], joined["input_ids"].gt(0))
        assert_same(take_rows(joined, 0, 1), finetune)

    def test_plain_rows_of_any_kind(self):
        marker = object()
        joined = join({"rows": [1, None, "a"], "x": torch.zeros(3)}, {"rows": [marker], "x": torch.zeros(1)})
        assert joined["rows"] == [1, None, "a", marker]

    def test_inputs_are_not_changed(self):
        finetune = {"x": torch.zeros(2, 3), "in": [torch.ones(2), {"t": ("a", "b")}]}
        pool = {"x": torch.zeros(1, 2), "in": [torch.ones(1), {"t": ("c",)}]}
        before = copy.deepcopy((finetune, pool))
        joined = join(finetune, pool, pad_values={"x": 9})
        take_rows(joined, 0, 1)
        joined["in"].append("later")
        joined["in"][1]["t"] = ()
        assert_same((finetune, pool), before)

    def test_gradients_reach_both_sides(self):
        finetune, pool = torch.ones(2, requires_grad=True), torch.ones(1, requires_grad=True)
        join(finetune, pool).sum().backward()
        assert finetune.grad.tolist() == [1, 1]
        assert pool.grad.tolist() == [1]

    def test_meta_tensors_join_because_nothing_is_read(self):
        joined = join(
            {"x": torch.zeros(2, 3, device="meta")},
            {"x": torch.zeros(1, 2, device="meta")},
            pad_values={"x": 0},
        )
        assert joined["x"].shape == (3, 3)


class TestConstants:
    @pytest.mark.parametrize("value", [3, 0.5, "nli", None, True, b"x", torch.float32])
    def test_equal_constants_are_kept(self, value):
        batch = {"x": torch.zeros(2), "constant": value}
        assert join(batch, dict(batch))["constant"] == value
        assert take_rows(batch, 0, 1)["constant"] == value

    def test_zero_dim_tensors_of_the_finetune_batch_are_kept(self):
        joined = join(
            {"x": torch.zeros(2), "scale": torch.tensor(2)}, {"x": torch.zeros(1), "scale": torch.tensor(3)}
        )
        assert joined["scale"].item() == 2
        assert take_rows(joined, 0, 1)["scale"].item() == 2

    def test_the_same_unhashable_object_is_equal(self):
        shared = {1, 2}
        assert join([torch.zeros(1), shared], [torch.zeros(1), shared])[1] is shared

    @pytest.mark.parametrize(
        ("mine", "other", "shown"),
        [("nli", "qa", "'nli'.*'qa'"), (1, 2, "1 in the finetune batch and 2"), ({1}, {1}, r"\{1\}.*\{1\}")],
    )
    def test_other_constants_are_refused(self, mine, other, shown):
        with pytest.raises(
            JoinError, match=rf'^batch\["task"\] must be alike .*{shown} in the pool.*one entry per row'
        ):
            join({"x": torch.zeros(1), "task": mine}, {"x": torch.zeros(1), "task": other})


class TestPadValues:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("attention_mask", 0),
            ("decoder_attention_mask", 0),
            ("token_type_ids", 0),
            ("special_tokens_mask", 1),
            ("labels", -100),
            ("position_ids", 0),
        ],
    )
    def test_names_of_hugging_face_have_values(self, name, value):
        finetune, pool = {name: torch.full((1, 3), 5)}, {name: torch.full((1, 2), 5)}
        assert join(finetune, pool)[name].tolist() == [[5, 5, 5], [5, 5, value]]
        assert join(finetune, pool, pad_values={name: 7})[name].tolist() == [[5, 5, 5], [5, 5, 7]]

    def test_bool_masks_are_padded(self):
        mask = torch.ones(1, 1, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
        assert join({"attention_mask": mask[0]}, {"attention_mask": mask[1]})["attention_mask"].tolist() == [
            [True, False],
            [True, True],
        ]

    @pytest.mark.parametrize("name", ["input_ids", "decoder_input_ids", "image"])
    def test_unknown_names_are_refused(self, name):
        finetune, pool = {"in": {name: torch.zeros(1, 3).long()}}, {"in": {name: torch.zeros(1, 2).long()}}
        with pytest.raises(
            JoinError,
            match=rf'^batch\["in"\]\["{name}"\].*length 3 .*length 2 .*pad_values={{\'{name}\': \.\.\.}}'
            r".* one length, as a model needs that reads the last position: padding is added on the right",
        ):
            join(finetune, pool)

    def test_built_in_values_do_not_fill_floats(self):
        finetune, pool = {"labels": torch.zeros(1, 3)}, {"labels": torch.zeros(1, 2)}
        with pytest.raises(JoinError, match=r"pad_values=\{'labels': \.\.\.\}"):
            join(finetune, pool)

    def test_built_in_values_do_not_add_choices(self):
        finetune, pool = (
            {"attention_mask": torch.ones(1, choices, 5, dtype=torch.long)} for choices in (4, 2)
        )
        with pytest.raises(
            JoinError,
            match=r"length 4 in .*length 2 in .*pad_values=\{'attention_mask': .*choose from.* as many",
        ):
            join(finetune, pool)
        joined = join(finetune, pool, pad_values={"attention_mask": 0})
        assert joined["attention_mask"].sum(2).tolist() == [[5, 5, 5, 5], [5, 5, 0, 0]]

    def test_the_innermost_name_counts_through_lists_and_fields(self):
        finetune = {"labels": [torch.zeros(1, 3).long(), Pair(torch.ones(1), torch.zeros(1, 2).long())]}
        pool = {"labels": [torch.zeros(1, 2).long(), Pair(torch.ones(1), torch.zeros(1, 4).long())]}
        joined = join(finetune, pool, pad_values={"y": 5})
        assert joined["labels"][0].tolist() == [[0, 0, 0], [0, 0, -100]]
        assert joined["labels"][1].y.tolist() == [[0, 0, 5, 5], [0, 0, 0, 0]]

    def test_tuples_are_padded_by_path(self):
        finetune, pool = (torch.ones(1, 2), torch.ones(1)), (torch.ones(1, 1), torch.ones(1))
        with pytest.raises(JoinError, match=r"^batch\[0\].*pad_values=\{'batch\[0\]': \.\.\.\}"):
            join(finetune, pool)
        assert join(finetune, pool, pad_values={"batch[0]": 3})[0].tolist() == [[1, 1], [1, 3]]

    def test_a_path_wins_over_a_name(self):
        finetune, pool = {"a": {"x": torch.ones(1, 2)}}, {"a": {"x": torch.ones(1, 1)}}
        joined = join(finetune, pool, pad_values={"x": 3, 'batch["a"]["x"]': 4})
        assert joined["a"]["x"].tolist() == [[1, 1], [1, 4]]

    @pytest.mark.parametrize(
        ("dtype", "value"),
        [
            (torch.bool, -100),
            (torch.uint8, -1),
            (torch.int8, 128),
            (torch.int64, 0.5),
            (torch.int64, float("nan")),
        ],
    )
    def test_values_that_the_dtype_cannot_hold_are_refused(self, dtype, value):
        finetune, pool = {"x": torch.zeros(1, 2, dtype=dtype)}, {"x": torch.zeros(1, 1, dtype=dtype)}
        with pytest.raises(
            JoinError, match=r'pads batch\["x"\] must be a whole number from .* got .*`pad_values`'
        ):
            join(finetune, pool, pad_values={"x": value})


class TestRefusals:
    def test_other_keys(self):
        finetune, pool = (
            {"x": torch.zeros(1), "labels": torch.zeros(1)},
            {"x": torch.zeros(1), "label": torch.zeros(1)},
        )
        with pytest.raises(
            JoinError,
            match=r"^batch must be alike.*lacks \['labels'\] and has \['label'\] too many.*`collate_fn`",
        ):
            join(finetune, pool)

    def test_rows_in_a_list(self):
        rows = [{"x": torch.zeros(3)} for _ in range(4)]
        with pytest.raises(JoinError, match="If these are rows, stack or pad them: a list of tensors"):
            join(rows, rows[:1])

    def test_missing_and_surplus_keys_alone(self):
        less, more = {"in": {"x": torch.zeros(1)}}, {"in": {"x": torch.zeros(1), "y": torch.zeros(1)}}
        with pytest.raises(JoinError, match=r'^batch\["in"\].*The pool batch has \[\'y\'\] too many'):
            join(less, more)
        with pytest.raises(JoinError, match=r'^batch\["in"\].*lacks \[\'y\'\]\. Make'):
            join(more, less)

    def test_other_length_of_tuple(self):
        with pytest.raises(
            JoinError, match=r"^batch must be alike .*\[0, 1\] in the fine.*\[0\] in the pool.*lacks \[1\]"
        ):
            join((torch.zeros(1), torch.zeros(1)), (torch.zeros(1),))

    @pytest.mark.parametrize(
        ("mine", "other", "shown"),
        [
            ((torch.zeros(1),), [torch.zeros(1)], "a tuple of 1 parts .* a list of 1 parts"),
            ([torch.zeros(1)], ["a"], "a list of 1 parts .* a list of 1 plain rows"),
            (torch.zeros(1), ["a"], "a torch.Tensor .* a list of 1 plain rows"),
            ({"x": torch.zeros(1)}, UserDict(x=torch.zeros(1)), "a dict .* a collections.UserDict"),
            (Record(["a"], 1), Pair(["a"], 1), r"a \S*Record .* a \S*Pair of 2 parts"),
        ],
    )
    def test_other_types(self, mine, other, shown):
        with pytest.raises(JoinError, match=rf'^batch\["part"\] must be alike in both batches, got {shown}'):
            join({"x": torch.zeros(1), "part": mine}, {"x": torch.zeros(1), "part": other})

    def test_other_types_of_constants(self):
        said = r"^batch\[1\]\.x must .* a NoneType .* a torch\.Tensor.* mode=\"max_size_cycle\""
        with pytest.raises(JoinError, match=said):
            join((torch.zeros(1), Pair(None, 1)), (torch.zeros(1), Pair(torch.zeros(1), 1)))

    def test_dtypes_are_not_promoted(self):
        with pytest.raises(
            JoinError,
            match=r"^batch\[0\].*dtype torch\.int64 in.*dtype torch\.int32 in.*`\.to\(torch\.int64\)`",
        ):
            join((torch.zeros(1).long(),), (torch.zeros(1).int(),))

    def test_devices(self):
        with pytest.raises(JoinError, match=r"device cpu in.*device meta in.*Move the pool batch to cpu"):
            join(torch.zeros(1), torch.zeros(1, device="meta"))

    def test_numbers_of_dims(self):
        with pytest.raises(JoinError, match=r"^batch must .* ndim 1 in .* ndim 2 in"):
            join(torch.zeros(1), torch.zeros(1, 1))
        with pytest.raises(JoinError, match=r"^batch\[1\] must .* ndim 0 in .* ndim 1 in"):
            join((torch.zeros(1), torch.tensor(0)), (torch.zeros(1), torch.zeros(1)))

    def test_trailing_shapes_are_not_padded(self):
        finetune, pool = {"labels": torch.zeros(1, 3, 4)}, {"labels": torch.zeros(1, 2, 5)}
        with pytest.raises(
            JoinError,
            match=r'^batch\["labels"\].*\(1, 3, 4\) in.*\(1, 2, 5\) in.*but the first .*pad all to one',
        ):
            join(finetune, pool, pad_values={"labels": 0})

    def test_nested_tensors(self):
        nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
        with pytest.raises(JoinError, match=r"^batch must be a tensor of one shape, got nested .* pad them"):
            join(nested, nested)

    @pytest.mark.parametrize("side", ["finetune", "pool"])
    def test_rows_that_disagree(self, side):
        good, bad = {"x": torch.zeros(2), "t": ["a", "b"]}, {"x": torch.zeros(2), "t": ["a"]}
        sides = {"finetune": good, "pool": good, side: bad}
        message = rf'leaves of the {side} batch .* got 2 in batch\["x"\] and 1 in batch\["t"\].*`collate_fn`'
        with pytest.raises(JoinError, match=message):
            join(**sides)

    def test_rows_that_disagree_are_not_taken(self):
        with pytest.raises(
            JoinError, match=r"leaves of the batch .* got 2 in batch\[0\] and 3 in batch\[1\]"
        ):
            take_rows((torch.zeros(2), torch.zeros(3)), 0, 1)

    def test_detection_batches_are_refused_rather_than_joined_by_channel(self):
        images, targets = [torch.zeros(3, 8, 8)] * 2, [{"boxes": torch.zeros(1, 4)}] * 2
        with pytest.raises(
            JoinError, match=r'got 3 in batch\[0\]\[0\] and 1 in batch\[1\]\[0\]\["boxes"\].*stack'
        ):
            join((images, targets), (images, targets))

    def test_an_empty_list_is_no_row_until_the_other_side_has_some(self):
        empty = {"x": torch.zeros(2), "extra": []}
        assert join(empty, empty)["extra"] == []
        with pytest.raises(
            JoinError, match=r'of the joined batch .* got 3 in batch\["x"\] and 1 in batch\["extra"\]'
        ):
            join(empty, {"x": torch.zeros(1), "extra": ["a"]})

    @pytest.mark.parametrize("batch", [{}, 3, "text", [], torch.tensor(1), {"task": "nli"}])
    def test_batches_without_rows(self, batch):
        for call in (n_rows, lambda b: join(b, b), lambda b: take_rows(b, 0, 0)):
            with pytest.raises(JoinError, match=r"must hold a tensor with rows .* got .*`collate_fn`"):
                call(batch)

    @pytest.mark.parametrize(("start", "stop"), [(-1, 1), (1, 0), (0, 3), (3, 3)])
    def test_ranges_outside_the_rows(self, start, stop):
        with pytest.raises(ValueError, match=rf"0 <= start <= stop <= 2 .* got {start} and {stop}\. Count"):
            take_rows(torch.zeros(2), start, stop)


class TestRows:
    def test_tensors_count_before_plain_rows(self):
        assert n_rows({"size": (8, 8), "x": torch.zeros(3, 2)}) == 3

    def test_zero_rows_join(self):
        batch = {"x": torch.zeros(2, 3), "t": ["a", "b"]}
        none = take_rows(batch, 1, 1)
        assert n_rows(none) == 0
        assert_same(join(batch, none), batch)
        assert_same(join(none, batch), batch)

    def test_taken_tensors_are_views(self):
        x = torch.zeros(4)
        assert take_rows({"x": x}, 2, 4)["x"].data_ptr() == x[2:].data_ptr()
