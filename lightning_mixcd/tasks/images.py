"""Two image classification tasks from NumPy archives."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import TensorDataset

from lightning_mixcd.tasks.digits import Shift, shifted
from lightning_mixcd.tasks.pairing import Pairing
from lightning_mixcd.tasks.tensor_data import TensorDataModule

__all__ = ["image_pairing", "image_task"]


def image_pairing(
    prior: str | Path,
    new: str | Path,
    *,
    shift: Shift | None = None,
    columns: Sequence[str] = (),
    batch_size: int = 64,
) -> Pairing:
    """Grey images and their classes: one set, then another with the same outputs. `mlp` and `cnn` fit.

    Args:
        prior: Archive (`.npz`) of the earlier task: `x_train` and `x_test`, uint8 `(N, S, S)`, and `y_train`
            and `y_test`, `(N,)`.
        new: Archive of the task to finetune on; it may be the same.
        shift: What is done to the new task's images; nothing by default.
        columns: Arrays of `prior` to keep for partitions, such as `source` for `source_train`.
        batch_size: Samples per batch, in both tasks.

    Returns:
        The pairing; images are `(1, S, S)` in [0, 1].

    Raises:
        FileNotFoundError: If an archive is not there.
        ValueError: If an array is not there.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/squares.npz"
        >>> x, y = np.zeros((6, 8, 8), dtype=np.uint8), np.arange(6)
        >>> np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
        >>> len(image_pairing(file, file, shift="rot90").pool)
        6
    """
    archive = _load(prior, columns)
    first, second = _module(archive, batch_size, None), _module(_load(new), batch_size, shift)
    kept = {name: archive[f"{name}_train"] for name in columns}
    return Pairing(first, second, first.train, first.val_dataloader(), kept)


def image_task(archive: str | Path, *, shift: Shift | None = None, batch_size: int = 64) -> TensorDataModule:
    """One task of a chain: grey images and their classes.

    Args:
        archive: As for `image_pairing`.
        shift: What is done to the images; nothing by default.
        batch_size: Samples per batch.

    Returns:
        The task; images are `(1, S, S)` in [0, 1].

    Raises:
        FileNotFoundError: If the archive is not there.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/squares.npz"
        >>> x, y = np.zeros((6, 8, 8), dtype=np.uint8), np.arange(6)
        >>> np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
        >>> image_task(file).train[0][0].shape
        torch.Size([1, 8, 8])
    """
    return _module(_load(archive), batch_size, shift)


def _load(path: str | Path, columns: Sequence[str] = ()) -> dict[str, npt.NDArray[Any]]:
    if not Path(path).exists():
        raise FileNotFoundError(
            f"`prior` and `new` must name archives that are there, got {str(path)!r}. Correct the path; in "
            "`mixcd-train`, `data_dir` or the environment variable MIXCD_DATA says where the folder of data "
            "sets is."
        )
    with np.load(path) as archive:
        arrays = dict(archive)
    needed = {"x_train", "y_train", "x_test", "y_test", *(f"{name}_train" for name in columns)}
    if absent := needed - {*arrays}:
        raise ValueError(
            f"{str(path)!r} must hold the arrays {sorted(needed)}, got {sorted(arrays)} without "
            f"{sorted(absent)}. Add them, or name other `columns`."
        )
    return arrays


def _module(archive: dict[str, npt.NDArray[Any]], batch_size: int, shift: Shift | None) -> TensorDataModule:
    sets = []
    for split in ("train", "test"):
        x = torch.from_numpy(archive[f"x_{split}"]).unsqueeze(1).float().div(255)
        x = x if shift is None else shifted(x, shift)
        sets.append(TensorDataset(x, torch.from_numpy(archive[f"y_{split}"]).long()))
    return TensorDataModule(*sets, batch_size=batch_size)
