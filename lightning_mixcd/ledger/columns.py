"""What a ledger column may be called, and which values it takes."""

import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["Array", "ColumnSpec", "as_array", "fit_column", "parse_columns"]

Array: TypeAlias = npt.NDArray[Any]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Kinds of values that a column of a kind takes, by NumPy's letters. Integers are no losses and 0/1 no flags:
# whoever passes them has most likely swapped two arguments.
_TAKES = {"b": "b", "i": "biu", "u": "biu", "f": "f", "S": "S", "U": "U"}


class ColumnSpec(NamedTuple):
    """Kind of a column.

    Args:
        dtype: Type of one entry.
        trailing: Shape of one row; `()` for a number per sample.
        width: Length of the vectors that rows are coordinates of; None where they are the values themselves.
    """

    dtype: np.dtype[Any]
    trailing: tuple[int, ...] = ()
    width: int | None = None

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk."""
        return self.dtype.itemsize * math.prod(self.trailing)

    def __str__(self) -> str:
        text = f"{self.dtype} {('N', *self.trailing)}".replace("'", "")
        return text if self.width is None else f"{text} for {self.width}"


_REQUIRED = {"correct": ColumnSpec(np.dtype(np.bool_)), "loss": ColumnSpec(np.dtype(np.float32))}


def parse_columns(columns: Mapping[str, Any]) -> dict[str, ColumnSpec]:
    """Bring a user's column descriptions into one form and add `correct` and `loss`.

    Args:
        columns: Name to dtype, name to (dtype, shape of one row), or name to `ColumnSpec`.

    Returns:
        Name to spec; `correct` and `loss` come first.

    Raises:
        TypeError: If a description is neither.
        ValueError: If a name, a shape, or the type of `correct` or `loss` cannot be.

    Example:
        >>> list(parse_columns({"label": "int64", "features": ("float16", (8,))}))
        ['correct', 'loss', 'label', 'features']
    """
    specs = _REQUIRED | {name: _parse_spec(name, given) for name, given in columns.items()}
    for name, required in _REQUIRED.items():
        if specs[name] != required:
            raise ValueError(
                f"Column `{name}` must be {required}, got {specs[name]}. "
                "Leave it out of `columns`: it is always there."
            )
    if len({name.lower() for name in specs}) < len(specs):
        raise ValueError(f"Names of `columns` must differ by more than case, got {list(specs)}. Rename one.")
    return specs


def as_array(name: str, values: object) -> Array:
    """Read a tensor or array-like into NumPy.

    Args:
        name: Column name, for messages.
        values: Tensor on any device, array or nested sequence.

    Returns:
        The values; bfloat16, which NumPy lacks, comes back as float32.

    Raises:
        TypeError: If the values are neither numbers, flags nor strings.
    """
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
        values = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    array = np.asarray(values)
    if array.dtype.kind not in _TAKES:
        raise TypeError(
            f"`{name}` must hold numbers, flags or strings, got dtype {array.dtype}. "
            "Convert it, for example with `.astype(str)`."
        )
    return array


def fit_column(name: str, values: object, spec: ColumnSpec, index: Sequence[int] | Array) -> Array:
    """Bring the values of some rows to the type of their column, refusing any that would change.

    Rounding of floats is no change; overflow is.

    Args:
        name: Column name, for messages.
        values: `(R, ...)`.
        spec: What the column holds.
        index: Pool indices of the rows, `(R,)`, for messages.

    Returns:
        Values of dtype `spec.dtype`, `(R, *spec.trailing)`.

    Raises:
        TypeError: If the values are of another kind.
        ValueError: If the shape is another, a value does not fit, or a loss is not finite.

    Example:
        >>> fit_column("loss", [0.5, 2.0], ColumnSpec(np.dtype(np.float32)), index=[7, 3])
        array([0.5, 2. ], dtype=float32)
    """
    array = as_array(name, values)
    if array.dtype.kind not in _TAKES[spec.dtype.kind]:
        raise TypeError(
            f"`{name}` must be {spec.dtype}, got {array.dtype}. Convert it to {spec.dtype} before passing it."
        )
    if array.shape != (len(index), *spec.trailing):
        raise ValueError(
            f"`{name}` must have shape {(len(index), *spec.trailing)}, got {array.shape}. "
            "Pass one row per pool index, all of one shape; where each token has logits, pad all texts to "
            "one length."
        )
    # Overflow is looked for below, with a message that names the sample.
    with np.errstate(over="ignore"):
        fitted = array.astype(spec.dtype, copy=False)
    _check_values(name, array, fitted, index)
    return fitted


def _parse_spec(name: str, given: object) -> ColumnSpec:
    _check_name(name)
    try:
        dtype, trailing, *width = given if isinstance(given, tuple) else (given, ())
        spec = ColumnSpec(np.dtype(dtype), tuple(map(operator.index, trailing)), *width)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"Column `{name}` must be a NumPy dtype or (dtype, shape of one row), got {given!r}. "
            'Write it as, for example, "int64" or ("float16", (768,)).'
        ) from error
    sizes = spec.trailing if spec.width is None else (*spec.trailing, operator.index(spec.width))
    if spec.dtype.kind not in _TAKES or spec.dtype.itemsize < 1 or min(sizes, default=1) < 1:
        raise ValueError(
            f"Column `{name}` must hold numbers, flags or strings of fixed length in rows, got {spec}. "
            'Write it as, for example, "int64", "U20" or ("float16", (768,)).'
        )
    return spec


# The name becomes a file name, and `recorded.npy` belongs to the recording itself.
def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or name.lower() == "recorded":
        raise ValueError(
            f"A column name must be letters, digits and `_`, and not `recorded`, got {name!r}. Rename it."
        )


def _check_values(name: str, array: Array, fitted: Array, index: Sequence[int] | Array) -> None:
    rule = f"must fit into {fitted.dtype}; record a wider type"
    if name == "loss":
        wrong = ~np.isfinite(fitted)
        rule = "must be finite; compute it in float32, or mend that sample or its label"
    elif fitted.dtype.kind == "f":
        wrong = np.isinf(fitted) & np.isfinite(array)
    else:
        wrong = fitted != array
    rows = np.flatnonzero(wrong.any(axis=tuple(range(1, wrong.ndim))))
    if rows.size:
        row = int(rows[0])
        value = np.atleast_1d(array[row])[np.atleast_1d(wrong[row])][0]
        raise ValueError(
            f"`{name}` of pool index {int(index[row])} is {value}, but {rule} "
            f"({rows.size} of {len(array)} rows are affected)."
        )
