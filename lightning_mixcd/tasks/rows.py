"""Where the rows of a text task are, and which of their columns mean what."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lightning_mixcd.tasks.texts import check_classes, check_texts, class_names, load_rows

__all__ = ["TextRows"]

# Columns of texts, by the names that tasks have for them.
TEXTS = {"text", "text_pair", "context", "question", "prompt", "target"}
OTHERS = {"label", "start", "end"}


@dataclass(frozen=True)
class TextRows:
    """Where a task's rows are. Each kind of task says which columns it needs.

    Args:
        source: Arguments of `datasets.load_dataset`: `{"path": "multi_nli"}` for a set on the hub, or for
            files `{"path": "json", "data_files": {"train": "a.jsonl.gz", "test": "b.jsonl.gz"}}`.
        names: What a needed column is called in the data, where that differs, as in `{"text": "premise"}`.
        columns: Further columns to keep for partitions; what is in `names` by its name there.
        train: Split to train on, or a part of it such as `"train[:1000]"` or `"train[::3]"`, every third row.
        val: Split to measure on.

    Example:
        >>> import json, tempfile, pathlib
        >>> file = pathlib.Path(tempfile.mkdtemp()) / "train.jsonl"
        >>> _ = file.write_text(json.dumps({"premise": "It rains.", "genre": "fiction"}))
        >>> source = {"path": "json", "data_files": {"train": str(file)}}
        >>> TextRows(source, {"text": "premise"}, columns=["genre"]).load("train", ["text"])
        {'text': ['It rains.'], 'genre': ['fiction']}
    """

    source: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] = ()
    train: str = "train"
    val: str = "test"

    def load(self, split: str, needed: Sequence[str]) -> dict[str, list[Any]]:
        """Load one split.

        Args:
            split: Its name.
            needed: The columns that the task needs, and every one that is in `names`.

        Returns:
            Values of each of these columns and of `columns`, in the order of the file.

        Raises:
            FileNotFoundError: If a file is not there.
            ValueError: If a column is not there, one of texts holds anything else or an empty one, one of
                labels has a row without a class, or `names` has what is no column of the task.
        """
        names = {name: name for name in (*needed, *self.columns)}
        if unknown := self.names.keys() - names.keys() - TEXTS - OTHERS:
            raise ValueError(
                f"`names` must say what columns of the task are called in the data, got {sorted(unknown)} "
                f"beside {[*names]}. Write it as in {{'text': 'premise'}}: the task's name first."
            )
        names |= self.names
        rows = load_rows(self.source, split, names.values())
        loaded = {name: class_names(rows, column) for name, column in names.items()}
        # A column that is only kept for partitions may be called the same, and hold anything.
        for name in TEXTS & {*needed, *self.names}:
            check_texts(loaded[name], self._called(names[name], split))
        if "label" in needed:
            check_classes(loaded["label"], self._called(names["label"], split))
        return loaded

    def _called(self, column: str, split: str) -> str:
        return f"{column!r} of split {split!r} of {dict(self.source)}"

    def kept(self, loaded: Mapping[str, list[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Pick what is kept for partitions.

        Args:
            loaded: What `load` returned.

        Returns:
            `columns` as arrays, `(N,)` each.
        """
        return {name: np.asarray(loaded[name]) for name in self.columns}
