"""Bins by what is already known about a sample."""

from typing_extensions import override

from lightning_mixcd.ledger.ledger import Ledger
from lightning_mixcd.partitions._number import number
from lightning_mixcd.partitions.base import Bins, Partition

__all__ = ["ByColumn", "ByLabel"]


class ByColumn(Partition):
    """One bin per value of a ledger column: genre, language, domain, source, ...

    Bins follow the sorted values.

    Args:
        column: Name of the column; its values are whole numbers, strings or bools, `(N,)`.

    Raises:
        ValueError: If the column holds anything else.

    Example:
        >>> ledger = Ledger.from_arrays(correct=[True] * 3, loss=[0.1] * 3, genre=["tv", "law", "tv"])
        >>> ByColumn("genre").bins(ledger).tolist()
        [1, 0, 1]
    """

    def __init__(self, column: str) -> None:
        self.column, self.needs_columns = column, (column,)

    @override
    def assign(self, ledger: Ledger) -> Bins:
        values = ledger.column(self.column)
        if values.ndim != 1 or values.dtype.kind not in "biuUS":
            raise ValueError(
                f"`column` must name whole numbers or strings, one per sample, but {self.column!r} has dtype "
                f"{values.dtype} and shape {values.shape}. Use `ByLossQuantile` or `ByCluster` for numbers "
                "that have an order."
            )
        return number(values.__getitem__, ledger.size)


class ByLabel(Partition):
    """One bin per class, by the ledger's `label` column, which recording fills from the batches.

    Example:
        >>> ledger = Ledger.from_arrays(correct=[True] * 3, loss=[0.1] * 3, label=[4, 9, 4])
        >>> ByLabel().bins(ledger).tolist()
        [0, 1, 0]
    """

    needs_columns = ("label",)

    @override
    def assign(self, ledger: Ledger) -> Bins:
        return ByColumn("label").assign(ledger)
