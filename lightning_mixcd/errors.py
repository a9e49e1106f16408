"""Exceptions of the library; each is also the built-in type that a caller would expect."""

__all__ = ["CaptureError", "JoinError", "LedgerError", "PoolError", "unreadable_sample"]


class LedgerError(ValueError):
    """A ledger is missing, unfinished, damaged, or belongs to another pool or base model."""


class CaptureError(RuntimeError):
    """Correctness of the rehearsed samples cannot be read from what a training step gave back."""


class JoinError(ValueError):
    """A pool batch cannot be joined to a finetune batch."""


class PoolError(RuntimeError):
    """A sample of the pool cannot be read."""


def unreadable_sample(index: int, dataset: object, cause: Exception) -> str:
    """Word the error for a pool sample that cannot be read.

    Args:
        index: Its pool index.
        dataset: The pool.
        cause: What the pool raised.

    Returns:
        Text for a `PoolError`.
    """
    return (
        f"`pool` must give every sample, but {type(dataset).__name__} raised {cause!r} for pool index "
        f"{index}. Mend that sample, or leave it out (`torch.utils.data.Subset`). While training, though not "
        "for a ledger, others of its draw that can be read may take its place: Pool(..., "
        'unreadable="skip").'
    )
