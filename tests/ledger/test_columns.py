"""Column names, kinds, and values that must not change on their way in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_mixcd.ledger.columns import ColumnSpec, as_array, fit_column, parse_columns


def spec(dtype, *trailing):
    return ColumnSpec(np.dtype(dtype), trailing)


def test_required_columns_come_first_and_may_be_repeated():
    specs = parse_columns({"label": np.int64, "correct": bool, "features": ("float16", (3,))})
    assert list(specs) == ["correct", "loss", "label", "features"]
    assert specs["features"] == spec("float16", 3)
    assert specs["loss"] == spec("float32")


def test_row_bytes_counts_every_entry():
    assert spec("float16", 3, 5).row_bytes == 2 * 3 * 5
    assert spec("int64").row_bytes == 8


def test_spec_reads_as_type_and_shape():
    assert str(spec("float16", 3)) == "float16 (N, 3)"


@pytest.mark.parametrize("name", ["", "a b", "../up", "a.b", "1st", "recorded", "Recorded", "ä", "a\n"])
def test_unsafe_names_are_refused(name):
    with pytest.raises(ValueError, match="must be letters, digits and `_`, and not `recorded`"):
        parse_columns({name: "int64"})


def test_names_that_differ_by_case_alone_are_refused():
    with pytest.raises(ValueError, match="must differ by more than case"):
        parse_columns({"Label": "int64", "label": "int64"})


@pytest.mark.parametrize(
    "kind", [torch.int64, "no such type", ("int64", "abc"), ("int64", 3), ("int64", 3, 4)]
)
def test_descriptions_that_are_no_dtype_are_refused(kind):
    with pytest.raises(
        TypeError, match=r"Column `label` must be a NumPy dtype or \(dtype, shape of one row\)"
    ):
        parse_columns({"label": kind})


@pytest.mark.parametrize(
    "kind", [object, "U", ("int64", (0,)), ("int64", (-1, -1)), "datetime64[s]", "complex64"]
)
def test_kinds_that_cannot_be_kept_are_refused(kind):
    with pytest.raises(
        ValueError, match="Column `label` must hold numbers, flags or strings of fixed length"
    ):
        parse_columns({"label": kind})


@pytest.mark.parametrize(
    ("name", "kind"), [("correct", "int8"), ("loss", "float64"), ("loss", ("float32", (2,)))]
)
def test_required_columns_keep_their_type(name, kind):
    with pytest.raises(ValueError, match=f"Column `{name}` must be .* Leave it out"):
        parse_columns({name: kind})


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_tensors_become_arrays_of_their_type(dtype):
    array = as_array("x", torch.ones(2, dtype=dtype, requires_grad=dtype.is_floating_point))
    assert array.dtype.name == str(dtype).removeprefix("torch.")
    assert array.tolist() == [1, 1]


def test_bfloat16_is_widened_without_loss():
    values = torch.tensor([1.0, 3.140625, -2.5e38], dtype=torch.bfloat16)
    array = as_array("x", values)
    assert array.dtype == np.float32
    assert array.tolist() == [float(value) for value in values]


@pytest.mark.parametrize("values", [[{}, {}], np.array(["a", None]), np.array([1], "datetime64[s]"), [1j]])
def test_values_of_no_kind_are_refused(values):
    with pytest.raises(
        TypeError, match=r"`genre` must hold numbers, flags or strings, got dtype .* Convert it"
    ):
        as_array("genre", values)


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1),
    st.sampled_from(["int8", "uint8", "int32", "int64"]),
)
def test_integers_arrive_unchanged_or_not_at_all(values, dtype):
    bounds = np.iinfo(dtype)
    fits = all(bounds.min <= value <= bounds.max for value in values)
    array = np.array(values, dtype=np.int64)
    if fits:
        fitted = fit_column("label", array, spec(dtype), range(len(values)))
        assert fitted.dtype == dtype
        assert fitted.tolist() == values
    else:
        with pytest.raises(ValueError, match=f"must fit into {dtype}; record a wider type"):
            fit_column("label", array, spec(dtype), range(len(values)))


def test_flags_may_be_kept_as_integers():
    assert fit_column("easy", [True, False], spec("int64"), [0, 1]).tolist() == [1, 0]


def test_floats_are_rounded_but_do_not_overflow():
    rounded = fit_column("features", [[0.1, 2.0]], spec("float16", 2), [4])
    assert rounded.tolist() == [[float(np.float16(0.1)), 2.0]]
    with pytest.raises(
        ValueError, match=r"`features` of pool index 4 is 100000\.0, but must fit into float16"
    ):
        fit_column("features", [[0.1, 1e5]], spec("float16", 2), [4])


def test_masked_logits_keep_their_infinities():
    logits = np.array([[-np.inf, np.nan, 1.0]])
    np.testing.assert_array_equal(fit_column("logits", logits, spec("float16", 3), [0]), logits)


def test_strings_are_not_cut():
    assert fit_column("genre", ["tv", "law"], spec("U3"), [0, 1]).tolist() == ["tv", "law"]
    with pytest.raises(ValueError, match="`genre` of pool index 9 is travel, but must fit into <U3"):
        fit_column("genre", ["law", "travel"], spec("U3"), [8, 9])


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf, 1e300])
def test_loss_must_be_finite_in_float32(loss):
    with pytest.raises(
        ValueError, match=r"`loss` of pool index 7 is .*, but must be finite; .*\(1 of 2 rows"
    ):
        fit_column("loss", np.array([0.5, loss]), spec("float32"), [3, 7])


@pytest.mark.parametrize(
    ("name", "values", "dtype"),
    [
        ("correct", [0, 1], "bool"),
        ("correct", [0.0, 1.0], "bool"),
        ("loss", [0, 1], "float32"),
        ("loss", [True, False], "float32"),
        ("label", [0.0, 1.0], "int64"),
        ("genre", [1, 2], "<U3"),
    ],
)
def test_values_of_another_kind_are_refused(name, values, dtype):
    with pytest.raises(TypeError, match=f"`{name}` must be {dtype}, got .* Convert it to {dtype}"):
        fit_column(name, np.array(values), spec(dtype), [0, 1])


@pytest.mark.parametrize("values", [0.5, [0.5], [0.5, 0.5, 0.5], [[0.5], [0.5]]])
def test_shapes_must_match(values):
    with pytest.raises(ValueError, match=r"`loss` must have shape \(2,\), got .* one row per pool index"):
        fit_column("loss", np.array(values), spec("float32"), [0, 1])


def test_no_rows_are_fine():
    assert fit_column("features", np.empty((0, 3)), spec("float16", 3), []).shape == (0, 3)
