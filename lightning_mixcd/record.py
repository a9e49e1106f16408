"""Making a ledger: one pass of the base model over the pool."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from lightning_mixcd.capture import Reading, Readout
from lightning_mixcd.data.pool import Pool
from lightning_mixcd.errors import LedgerError
from lightning_mixcd.ledger import Ledger, LedgerWriter, fingerprint_model, fingerprint_pool
from lightning_mixcd.ledger.columns import parse_columns
from lightning_mixcd.ledger.header import HEADER
from lightning_mixcd.probe import Probe

__all__ = [
    "KEPT",
    "check_keep",
    "columns_of",
    "open_if_recorded",
    "record_ledger",
    "record_with",
    "values_of",
]

FLUSH_EVERY_N_BATCHES = 50
KEPT = frozenset({"features", "logits"})  # what a forward shows besides correctness and loss
Array = npt.NDArray[Any]


def record_ledger(
    model: nn.Module,
    pool: Pool | Dataset[Any],
    path: str | Path,
    *,
    readout: Readout | None = None,
    columns: Mapping[str, Any] | None = None,
    keep: Sequence[str] | Mapping[str, str] = (),
    batch_size: int = 256,
) -> Ledger:
    """Record what the base model gets right on the pool, in eval mode, one forward per sample.

    An interrupted recording goes on where it stopped; a finished one of the same pool and model is opened and
    costs nothing. The pass is counted as compute units of every run whose strategy needs the ledger.

    Args:
        model: The base model, on the device it should run on: a LightningModule, whose `training_step` is
            called without gradients, or a plain module whose forward returns logits.
        pool: The pretrain samples, N of them, in an order that stays.
        path: Folder of the ledger.
        readout: Where correctness is to be found; see `Readout`.
        columns: Further columns to keep for partitions, such as a genre, each of length N.
        keep: What else to keep of each forward: "features" (the input of the head, see `Readout`), "logits".
            In float16, unless another dtype is given for a name. The progress bar says how large the ledger
            will be.
        batch_size: Samples per forward.

    Returns:
        The finished ledger. Besides `columns` and `keep` it holds `correct`, `loss` and, for classification,
        `label`.

    Raises:
        LedgerError: If there is a ledger of something else at `path`, or outputs have no loss of each sample,
            or no logits that are to be kept.
        CaptureError: If correctness cannot be read of the outputs.
        PoolError: If a sample cannot be read, whatever `Pool(unreadable=...)` says.
        ValueError: If a loss is not finite, a feature or logit does not fit into its dtype, or a column does
            not have one value per sample.

    Example:
        >>> import torch, tempfile
        >>> data = torch.utils.data.TensorDataset(torch.eye(3), torch.tensor([0, 1, 0]))
        >>> record_ledger(torch.nn.Identity(), data, tempfile.mkdtemp() + "/base.ledger").correct.tolist()
        [True, True, False]
    """
    pool = pool if isinstance(pool, Pool) else Pool(pool)
    finished = open_if_recorded(path, pool)
    if finished is not None:
        finished.verify_model(model)
        if missing := [name for name in keep if name not in finished.columns]:
            raise LedgerError(
                f"`keep` must be in the finished ledger at `{path}`, got {missing}, which are not. Record "
                "into another folder, or delete this one to record again."
            )
        for name, values in (columns or {}).items():
            if not np.array_equal(finished.column(name), _column(name, values, len(pool))):
                raise LedgerError(
                    f"`columns` must be those of the finished ledger at `{path}`, got other values for "
                    f"{name!r}. Add them under another name with `with_columns`, or delete the folder to "
                    "record again."
                )
        return finished
    probe = Probe(model, pool, readout or Readout(), batch_size=batch_size)
    return record_with(probe, path, columns=columns, keep=keep)


def record_with(
    probe: Probe,
    path: str | Path,
    *,
    columns: Mapping[str, Any] | None = None,
    keep: Sequence[str] | Mapping[str, str] = (),
    model: Mapping[str, Any] | None = None,
) -> Ledger:
    """Record a ledger with a probe that is already set up; see `record_ledger`.

    Args:
        probe: The probe.
        path: Folder of the ledger.
        columns: Further columns to keep, each of length N.
        keep: What else to keep.
        model: Fingerprint of the base model, if it was taken before; by default that of the probe's module.

    Returns:
        The finished ledger.

    Raises:
        ValueError: If `keep` names something else; see also `record_ledger`.
    """
    check_keep(keep)
    size = len(probe.pool)
    extra = {name: _column(name, values, size) for name, values in (columns or {}).items()}
    # Only a reading tells whether there are labels to keep, and how wide features are.
    [(index, reading)] = probe.readings(range(min(size, probe.batch_size)), keep=keep)
    specs = columns_of(reading, keep)
    specs |= {name: (values.dtype, values.shape[1:]) for name, values in extra.items()}
    writer = LedgerWriter(
        path,
        size,
        columns=specs,
        pool=fingerprint_pool(probe.pool.dataset),
        model=model or fingerprint_model(probe.module),
    )
    n_bytes = size * sum(spec.row_bytes for spec in parse_columns(specs).values())
    _write(writer, index.numpy(), reading, extra, keep)
    missing = np.flatnonzero(~writer.recorded)
    with (
        closing(probe.readings(missing, keep=keep)) as readings,
        tqdm(
            total=size,
            initial=size - len(missing),
            desc=f"Recording ledger ({n_bytes / 1e6:,.1f} MB)",
            unit="sample",
        ) as bar,
    ):
        for n_batches, (index, reading) in enumerate(readings, start=1):
            _write(writer, index.numpy(), reading, extra, keep)
            bar.update(len(index))
            if n_batches % FLUSH_EVERY_N_BATCHES == 0:
                writer.flush()
    return writer.finish(forwards=size)


def check_keep(keep: Iterable[str]) -> None:
    """Refuse to keep what a forward does not show.

    Args:
        keep: Names.

    Raises:
        ValueError: If there is another one than "features" and "logits".
    """
    if not {*keep} <= KEPT:
        raise ValueError(
            f'`keep` may hold "features" and "logits", got {[*keep]}. Columns of your own go into `columns`.'
        )


def columns_of(reading: Reading, keep: Sequence[str] | Mapping[str, str]) -> dict[str, Any]:
    """Say what a ledger of such readings holds, besides `correct` and `loss`.

    Args:
        reading: Of any rows.
        keep: What to keep of each forward: names, in float16, or names and their dtypes.

    Returns:
        Columns as `LedgerWriter` takes them.

    Raises:
        LedgerError: If the reading lacks what is to be kept.
    """
    dtypes = keep if isinstance(keep, Mapping) else dict.fromkeys(keep, "float16")
    label: dict[str, Any] = {} if reading.label is None else {"label": "int64"}
    return label | {name: (dtypes[name], tuple(_kept(reading, name).shape[1:])) for name in keep}


def values_of(reading: Reading, keep: Iterable[str]) -> dict[str, Tensor]:
    """Take the columns of a ledger from a reading.

    Args:
        reading: Of some rows.
        keep: What to keep of each forward.

    Returns:
        Values by name of the column, on the CPU.

    Raises:
        LedgerError: If the reading lacks what is needed.
    """
    if reading.loss is None:
        raise LedgerError(
            "A ledger needs the loss of each sample, and the outputs have none. Return logits, or "
            '{"correct": ..., "losses": ...}, or let the `correctness` rule return (correct, losses).'
        )
    values = {"correct": reading.correct, "loss": reading.loss.float()}
    if reading.label is not None:
        values["label"] = reading.label
    values |= {name: _kept(reading, name) for name in keep}
    return {name: value.cpu() for name, value in values.items()}


def open_if_recorded(ledger: Ledger | str | Path, pool: Pool) -> Ledger | None:
    """Open a ledger and check that it belongs to a pool.

    Args:
        ledger: The ledger, or its folder.
        pool: The pool.

    Returns:
        The ledger; None if the folder holds none, or an unfinished one.

    Raises:
        LedgerError: If it is damaged, or of another pool.
    """
    if not isinstance(ledger, Ledger):
        if not (Path(ledger) / HEADER).exists():
            return None
        ledger = Ledger.open(ledger)
    ledger.verify_pool(pool.dataset, unreadable=pool.unreadable)
    return ledger


def _write(
    writer: LedgerWriter, rows: Array, reading: Reading, extra: Mapping[str, Array], keep: Iterable[str]
) -> None:
    writer.write(rows, **values_of(reading, keep), **{name: column[rows] for name, column in extra.items()})


def _kept(reading: Reading, name: str) -> Tensor:
    values: Tensor | None = getattr(reading, name)
    if values is None:
        raise LedgerError(
            f"`{name}` are to be kept, and the outputs have none. Return logits from `training_step`, or "
            f'leave "{name}" out of `keep`.'
        )
    return values


def _column(name: str, values: object, size: int) -> Array:
    column = np.asarray(values)
    if column.ndim == 0 or len(column) != size:
        raise ValueError(
            f"`columns` must have one value per pool sample ({size}), {name!r} has shape {column.shape}. "
            "Give one in the order of the pool."
        )
    return column
