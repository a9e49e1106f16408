"""Exceptions of the library; each is also the built-in type that a caller would expect."""

__all__ = ["CaptureError", "JoinError", "LedgerError"]


class LedgerError(ValueError):
    """A ledger is missing, unfinished, damaged, or belongs to another pool or base model."""


class CaptureError(RuntimeError):
    """Correctness of the rehearsed samples cannot be read from what a training step gave back."""


class JoinError(ValueError):
    """A pool batch cannot be joined to a finetune batch."""
