"""Rows of texts, from files or the Hugging Face hub, and their classes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["check_classes", "check_texts", "class_names", "joint_labels", "load_rows", "own_labels"]


EVERY = re.compile(r"(.+)\[::([1-9]\d*)\]")


def load_rows(source: Mapping[str, Any], split: str, needed: Iterable[str]) -> Any:  # noqa: ANN401 -- untyped
    """Load one split of a data set.

    Args:
        source: Arguments of `datasets.load_dataset`.
        split: Its name, or a part of it: the first rows, as `"train[:1000]"`, or every third, as
            `"train[::3]"`, for data that is sorted.
        needed: Columns that must be there.

    Returns:
        The split, a `datasets.Dataset`.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a column is not there, or `source` is a stream.
    """
    from datasets import load_dataset

    if source.get("streaming"):
        raise ValueError(
            "`source` must be read as a whole, got streaming=True. Leave that out; what can only be streamed "
            "is rehearsed as `Streams`."
        )
    part = EVERY.fullmatch(split)
    name, every = (part[1], int(part[2])) if part else (split, 1)
    try:
        rows = load_dataset(**source, split=name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"`source` must name files that are there, got {dict(source)}: {error}. Correct the "
            "path; in `mixcd-train`, `data_dir` or the environment variable MIXCD_DATA says where the "
            "folder of data sets is."
        ) from error
    if absent := {*needed} - {*rows.column_names}:
        raise ValueError(
            f"The columns asked for must be among those of {dict(source)}, which has "
            f"{rows.column_names}, got {sorted(absent)}. Name some that it has."
        )
    return rows.select(range(0, len(rows), every))


def check_texts(texts: Sequence[Any], column: str) -> None:
    """Refuse rows without a text.

    Args:
        texts: Values of a column.
        column: How to call it.

    Raises:
        ValueError: If one is anything else than a text, or an empty one.
    """
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"Column {column} must hold a text in every row, got {text!r} in row {row}. Leave such rows "
                "out."
            )


def check_classes(labels: Sequence[Any], column: str) -> None:
    """Refuse rows without a class.

    Args:
        labels: Values of a column: class numbers or names.
        column: How to call it.

    Raises:
        ValueError: If there is such a row, or one with several classes.
    """
    for row, label in enumerate(labels):
        if label is None or isinstance(label, list) or (isinstance(label, int) and label < 0):
            raise ValueError(
                f"Column {column} must hold a class in every row, got {label!r} in row {row}. Leave such "
                "rows out."
            )


def class_names(rows: Any, column: str) -> list[Any]:  # noqa: ANN401 -- untyped
    """Return the labels of a data set, as names where it knows those of its numbers.

    The same number may mean another class in another set; a name does not.

    Args:
        rows: A `datasets.Dataset`.
        column: Column of the labels.

    Returns:
        The labels, N of them; the numbers where a row has none.
    """
    values, feature = list(rows[column][:]), rows.features[column]
    # Rows without a class are -1, or None.
    if not hasattr(feature, "int2str") or any(value is None or value < 0 for value in values):
        return values
    return list(feature.int2str(values))


def joint_labels(splits: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[np.int64]]:
    """Bring the labels of several splits into one space.

    Args:
        splits: Labels, `(N_i,)` each: all whole numbers, which mean the same in every split, or all names.

    Returns:
        Class numbers, `(N_i,)` each; names are numbered in sorted order over all splits.

    Raises:
        ValueError: If they are anything else.

    Example:
        >>> [part.tolist() for part in joint_labels([np.array(["cat", "ape"]), np.array(["bee"])])]
        [[2, 0], [1]]
    """
    kinds = {labels.dtype.kind for labels in splits}
    if kinds <= {"i", "u"}:
        if min(labels.min(initial=0) for labels in splits) < 0:
            raise ValueError("`label` must be 0 or more, got -1 or less. Leave rows without a class out.")
        return [labels.astype(np.int64) for labels in splits]
    if kinds != {"U"}:
        raise ValueError(
            f"`label` must hold whole numbers in both tasks, or names in both, got dtypes "
            f"{[str(labels.dtype) for labels in splits]}. Name another column."
        )
    names = np.unique(np.concatenate(splits))
    return [np.searchsorted(names, labels) for labels in splits]


def own_labels(splits: Sequence[npt.NDArray[np.int64]]) -> list[npt.NDArray[np.int64]]:
    """Number the classes of a task from 0, without gaps, in the order that they have.

    Args:
        splits: Class numbers of its splits, `(N_i,)` each.

    Returns:
        The new numbers, `(N_i,)` each.

    Example:
        >>> [part.tolist() for part in own_labels([np.array([7, 4]), np.array([9, 4])])]
        [[1, 0], [2, 0]]
    """
    classes = np.unique(np.concatenate(splits))
    return [np.searchsorted(classes, labels) for labels in splits]
