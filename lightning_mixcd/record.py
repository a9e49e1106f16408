"""Making a ledger: one pass of the base model over the pool."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from lightning_mixcd.capture import Reading, Readout
from lightning_mixcd.data.pool import Pool, as_pool
from lightning_mixcd.data.worker import in_worker
from lightning_mixcd.errors import LedgerError
from lightning_mixcd.functional.drift import principal_directions
from lightning_mixcd.kept import Keep, check_keep, columns_of, n_coordinates, values_of
from lightning_mixcd.ledger import Ledger, LedgerWriter, fingerprint_model, fingerprint_pool
from lightning_mixcd.ledger.header import HEADER
from lightning_mixcd.probe import Probe

__all__ = [
    "column_values",
    "open_if_recorded",
    "record_ledger",
    "record_with",
]

FLUSH_EVERY_N_BATCHES = 50
BASIS_SAMPLES = 4096
Array = npt.NDArray[Any]


def record_ledger(
    model: nn.Module,
    pool: Pool | Dataset[Any],
    path: str | Path,
    *,
    readout: Readout | None = None,
    columns: Mapping[str, Any] | None = None,
    keep: Keep = (),
    batch_size: int | None = None,
) -> Ledger:
    """Record what the base model gets right on the pool, in eval mode, one forward per sample.

    An interrupted recording goes on where it stopped; a finished one of the same pool and model is opened and
    costs nothing. The pass is counted as compute units of every run whose strategy needs the ledger.

    Args:
        model: The base model, on the device it should run on: a LightningModule, whose `training_step` is
            called without gradients, or a plain module whose forward returns logits. Within `torch.autocast`
            it runs in that precision. Batches pass its own transfer hooks, none of a datamodule.
        pool: The pretrain samples, N of them, in an order that stays.
        path: Folder of the ledger.
        readout: Where correctness is to be found; see `Readout`.
        columns: Further columns to keep for partitions, such as a genre, each of length N.
        keep: What else to keep of each forward: "features" (the input of the head, see `Readout`), "logits".
            In float16, unless another dtype is given for a name. With `{"features": ("float16", 64)}` they
            are kept as 64 coordinates, along the directions that hold most of the features of up to 4,096
            samples; `ledger.basis("features")` are these. The progress bar says how large the ledger will be.
        batch_size: Samples per forward; by default that of the pool.

    Returns:
        The finished ledger. Besides `columns` and `keep` it holds `correct`, `loss` and, for classification,
        `label`.

    Raises:
        LedgerError: If there is a ledger of something else at `path`, or outputs have no loss of each sample,
            or no logits that are to be kept.
        CaptureError: If correctness cannot be read of the outputs.
        PoolError: If a sample cannot be read, whatever `Pool(unreadable=...)` says.
        ValueError: If a loss is not finite, a feature or logit does not fit into its dtype, a column does not
            have one value per sample, or there are fewer features than coordinates to be kept.

    Example:
        >>> import torch, tempfile
        >>> data = torch.utils.data.TensorDataset(torch.eye(3), torch.tensor([0, 1, 0]))
        >>> record_ledger(torch.nn.Identity(), data, tempfile.mkdtemp() + "/base.ledger").correct.tolist()
        [True, True, False]
    """
    pool = as_pool(pool)
    finished = open_if_recorded(path, pool)
    if finished is not None:
        finished.verify_model(model)
        if missing := [name for name in keep if name not in finished.columns]:
            raise LedgerError(
                f"`keep` must be in the finished ledger at `{path}`, got {missing}, which are not. Record "
                "into another folder, or delete this one to record again."
            )
        basis = finished.basis("features")
        found, wanted = None if basis is None else len(basis), n_coordinates(keep)
        if "features" in keep and found != wanted:
            raise LedgerError(
                f"`keep` must ask for what the finished ledger at `{path}` has, features as {found} "
                f"coordinates, got {wanted} (None: as they are). Record into another folder, or delete this "
                "one to record again."
            )
        for name, values in (columns or {}).items():
            if not _same(finished.column(name), column_values(name, values, len(pool))):
                raise LedgerError(
                    f"`columns` must be those of the finished ledger at `{path}`, got other values for "
                    f"{name!r}. Add them under another name with `with_columns`, or delete the folder to "
                    "record again."
                )
        return finished
    if batch_size is not None:
        pool = replace(pool, batch_size=batch_size)
    probe = Probe(model, pool, readout or Readout())
    record_with(probe, path, columns=columns, keep=keep)
    return Ledger.open(path, verify=False)


def record_with(
    probe: Probe,
    path: str | Path,
    *,
    columns: Mapping[str, Any] | None = None,
    keep: Keep = (),
    model: Mapping[str, Any] | None = None,
) -> None:
    """Record a ledger with a probe that is already set up; see `record_ledger`.

    Of several processes the first one writes what all of them read. Where that cannot be, it alone says why.

    Args:
        probe: The probe.
        path: Folder of the ledger.
        columns: Further columns to keep, each of length N.
        keep: What else to keep.
        model: Fingerprint of the base model, if it was taken before; by default that of the probe's module.

    Raises:
        ValueError: If `keep` names something else; see also `record_ledger`.
    """
    check_keep(keep)
    size = len(probe.pool)
    extra = {name: column_values(name, values, size) for name, values in (columns or {}).items()}
    # Only a reading tells whether there are labels to keep, and how wide features are.
    looks = [*probe.readings(_first(size, probe.pool.batch_size, keep), keep=keep)]
    specs = columns_of(looks[0][1], keep)
    if own := sorted(extra.keys() & {"correct", "loss", *specs}):
        raise ValueError(
            f"`columns` must leave out what is recorded by itself, got {own}. Give yours another name."
        )
    specs |= {name: (values.dtype, values.shape[1:]) for name, values in extra.items()}
    writer: LedgerWriter | None = None
    missing: dict[str, Tensor] = {}
    try:
        if probe.leads:
            pool = in_worker(partial(fingerprint_pool, probe.pool.dataset), probe.pool.num_workers)
            model = model or fingerprint_model(probe.module)
            bases = _bases([reading for _, reading in looks], keep)
            writer = LedgerWriter(path, size, columns=specs, pool=pool, model=model, bases=bases)
            for index, reading in looks:
                _write(writer, index.numpy(), reading, extra, keep)
            missing = {"rows": torch.from_numpy(~writer.recorded)}
    finally:
        missing = probe.everyones(missing)[0]  # none where that failed: nobody waits in vain
    for rows in missing.values():
        with closing(probe.readings(rows.numpy().nonzero()[0], keep=keep)) as readings:
            _record(writer, readings, extra, keep)


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
    read = partial(fingerprint_pool, pool.dataset, unreadable=pool.unreadable)
    ledger.verify_fingerprint(in_worker(read, pool.num_workers))
    return ledger


def column_values(name: str, values: object, size: int) -> Array:
    """Return a column as an array, one value per sample.

    Args:
        name: Its name.
        values: Its values, in the order of the pool.
        size: Number of samples, N.

    Returns:
        The values, `(N, ...)`.

    Raises:
        ValueError: If there are more or fewer.
    """
    column = np.asarray(values)
    if column.ndim == 0 or len(column) != size:
        raise ValueError(
            f"`columns` must have one value per pool sample ({size}), {name!r} has shape {column.shape}. "
            "Give one in the order of the pool."
        )
    return column


def _record(
    writer: LedgerWriter | None,
    readings: Iterable[tuple[Tensor, Reading]],
    extra: Mapping[str, Array],
    keep: Keep,
) -> None:
    if writer is None:  # another process writes
        deque(readings, maxlen=0)
        return
    size, what = len(writer.recorded), f"Recording ledger ({writer.n_bytes / 1e6:,.1f} MB)"
    with tqdm(total=size, initial=writer.n_recorded, desc=what, unit="sample") as bar:
        for n_batches, (index, reading) in enumerate(readings, start=1):
            _write(writer, index.numpy(), reading, extra, keep)
            bar.update(len(index))
            if n_batches % FLUSH_EVERY_N_BATCHES == 0:
                writer.flush()
    writer.finish(forwards=size)


def _same(one: Array, two: Array) -> bool:
    return np.array_equal(one, two, equal_nan=one.dtype.kind == two.dtype.kind == "f")


# Rows that tell which columns there are to be, and along which directions features lie, where that matters.
def _first(size: int, batch_size: int, keep: Keep) -> range:
    if n_coordinates(keep) is None:
        return range(min(size, batch_size))
    return range(0, size, -(-size // BASIS_SAMPLES))


def _bases(readings: Sequence[Reading], keep: Keep) -> dict[str, Array]:
    k = n_coordinates(keep)
    if k is None:
        return {}
    features = torch.cat([values_of(reading, keep)["features"] for reading in readings])
    if not 1 <= k <= features.shape[1]:
        raise ValueError(
            f"`keep` must ask for 1 to {features.shape[1]} coordinates of so many features, got {k}. "
            'Leave the number out to keep features as they are: keep=["features"].'
        )
    return {"features": principal_directions(features, k).numpy()}


def _write(
    writer: LedgerWriter, rows: Array, reading: Reading, extra: Mapping[str, Array], keep: Keep
) -> None:
    values = values_of(reading, keep)
    if n_coordinates(keep) is not None:
        # Where an interrupted recording goes on, it has the basis that it was begun with.
        values["features"] = values["features"].float() @ torch.from_numpy(writer.basis("features")).T
    writer.write(rows, **values, **{name: column[rows] for name, column in extra.items()})
