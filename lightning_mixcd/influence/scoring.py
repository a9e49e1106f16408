"""Scores of a whole pool, one pass, without a gradient per sample."""

import hashlib
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import jvp
from tqdm.auto import tqdm  # type: ignore[import-untyped]

from lightning_mixcd.influence.stage import Parameters, Stage

__all__ = ["check_file", "score_pool"]

_FLUSH_EVERY_N_BATCHES = 50
Scores = npt.NDArray[np.float64]


def score_pool(
    base: Stage, direction: Parameters, *, path: str | PathLike[str] | None = None, progress: bool = True
) -> Scores:
    """Score each sample by minus the product of its gradient with a direction.

    One forward-mode pass per batch gives the products of all its rows: no gradient of a sample is ever held.

    Args:
        base: The stage whose samples are scored.
        direction: Of `TwoStages.direction`.
        path: File for the scores, `.npy`. Beside it, an interrupted scoring leaves what it has, and goes on
            from there when it is called again with the same direction. None keeps scores in memory.
        progress: Whether a bar is shown.

    Returns:
        Scores, `(N,)`.

    Raises:
        ValueError: If the direction is none of the stage's parameters, `path` is a folder, or a score is not
            finite.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.eye(2), torch.zeros(2, 1))
        >>> values = lambda module, batch: module(batch[0])[:, 0]
        >>> stage = Stage(torch.nn.Linear(2, 1), data, values)
        >>> score_pool(stage, {"weight": torch.tensor([[3.0, 4.0]])}, progress=False)
        array([-3., -4.])
    """
    check_file(path)
    at = base.parameters()
    wrong = [name for name, value in direction.items() if name not in at or value.shape != at[name].shape]
    if wrong:
        raise ValueError(
            f"`direction` must be of the stage's parameters {list(at)[:20]}, got also {wrong[:5]}. Take it "
            "from `TwoStages.direction` for this base stage."
        )
    n = len(base.pool)
    if path is None:
        scores: Scores = np.full(n, np.nan)
        _fill(scores, base, direction, progress=progress)
        return scores
    path = Path(path)
    # Another direction or another model is another scoring.
    part = path.with_name(f"{path.name}.{_digest(direction, at, n)}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    mapped = _map(part, n)
    _fill(mapped, base, direction, progress=progress)
    done = np.array(mapped)
    part.replace(path)
    return done


def check_file(path: str | PathLike[str] | None) -> None:
    """Refuse a folder as the file for the scores.

    Args:
        path: See `score_pool`.

    Raises:
        ValueError: If it is one.
    """
    if path is not None and Path(path).is_dir():
        raise ValueError(
            f"`path` must be a file, got the folder {str(path)!r}. Name a file in it: "
            f"{str(Path(path) / 'scores.npy')!r}."
        )


def _map(part: Path, n: int) -> "np.memmap[tuple[int, ...], np.dtype[np.float64]]":
    if part.exists():
        return np.load(part, mmap_mode="r+")  # type: ignore[no-any-return]
    # Whole before it has its name.
    fresh = part.with_suffix(".new")
    mapped = np.lib.format.open_memmap(fresh, mode="w+", dtype=np.float64, shape=(n,))
    mapped[:] = np.nan
    mapped.flush()
    fresh.replace(part)
    return np.load(part, mmap_mode="r+")  # type: ignore[no-any-return]


# What is not there yet is NaN; numbers never lie across pages, so each of them is old or new.
def _fill(scores: Scores, base: Stage, direction: Parameters, *, progress: bool) -> None:
    missing = np.flatnonzero(np.isnan(scores))
    at = {name: p for name, p in base.parameters().items() if name in direction}
    rest = {name: p for name, p in base.parameters().items() if name not in direction}
    bar = tqdm(total=len(scores), initial=len(scores) - len(missing), desc="Scoring", disable=not progress)
    with bar, base.running() as losses:
        done = 0
        for number, batch in enumerate(base.batches(missing), start=1):

            def of(some: Parameters, batch: Any = batch) -> Tensor:  # noqa: ANN401 -- any structure
                return losses({**rest, **some}, batch)

            change: Tensor = jvp(of, (at,), (direction,))[1]
            rows = missing[done : done + len(change)]
            found = -change.cpu().double().numpy()
            if not np.isfinite(found).all():
                raise ValueError(
                    f"The score of pool index {rows[~np.isfinite(found)][0]} is not finite. Its loss or its "
                    "gradient overflows; mend that sample, or run the model in float64."
                )
            scores[rows] = found
            done += len(rows)
            bar.update(len(rows))
            if isinstance(scores, np.memmap) and number % _FLUSH_EVERY_N_BATCHES == 0:
                scores.flush()
    if isinstance(scores, np.memmap):
        scores.flush()


def _digest(direction: Parameters, at: Parameters, n: int) -> str:
    digest = hashlib.sha256(str((n, *direction)).encode())
    for tensor in (*direction.values(), *at.values()):
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
