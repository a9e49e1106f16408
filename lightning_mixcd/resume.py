"""What Lightning leaves out of a checkpoint, and which checkpoint to go on from."""

import random
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, distributed
from typing_extensions import override

from lightning_mixcd.wiring import BatchHook

__all__ = ["ExactResume", "newest_checkpoint"]


class ExactResume(Callback):
    """Saves and restores the global random states, so that a resumed run repeats the uninterrupted one.

    Lightning saves none: after a resume, dropout and augmentation take other values. Validation is also kept
    from advancing them, because the validation that follows a checkpoint is skipped on resume. And a run that
    is resumed more than once is kept from saving checkpoints that cannot be resumed. With this
    callback, a finetune loader that resumes (`RehearsalDataModule(order_seed=...)`) and checkpoints at
    optimizer steps, a run that was killed continues bit for bit. `RehearsalCallback` resumes its own draws
    without it.

    Each process has its own states; they are restored where the resumed run has as many processes.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[ExactResume()], logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        self._torch: Tensor | None = None  # as of the end of the last training batch
        self._others: dict[str, Any] | None = None  # as of the start of validation
        self._final: dict[str, Any] | None = None  # as of the end of `fit`
        self._restore: dict[str, Any] | None = None
        self._hook: BatchHook | None = None
        self._rank, self._failed = 0, False

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._end()
        self._torch = self._others = self._final = self._restore = None
        self._rank, self._failed = trainer.global_rank, False

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._restore is None:
            return
        # Lightning forgets that this step has its checkpoint, and would save it again after the next batch:
        # in the middle of an accumulation, whose gradients are in no checkpoint.
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint):
                callback._last_global_step_saved = trainer.global_step  # noqa: SLF001
        # States are restored before the first batch. Not here: when the checkpoint fell on a validation step,
        # Lightning makes the iterator of the validation loader afterwards, which draws from the global
        # generator. Not in `on_train_batch_start`: the user's transforms of the first batch come before.
        self._hook = BatchHook(trainer, pl_module, self._restored, name="on_before_batch_transfer")

    def _restored(self, batch: object) -> object:
        if self._restore is not None:
            _set_all(self._restore)
            self._restore = None
        return batch

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # Resumed behind the last batch of an epoch, Lightning does not count the next epoch as begun. The
        # checkpoints of that epoch would be resumed as if they were of its start.
        epochs: Any = trainer.fit_loop.epoch_progress
        if epochs.total.ready == epochs.total.processed:
            epochs.increment_ready()
            epochs.increment_started()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._torch = torch.get_rng_state()

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == TrainerFn.FITTING and self._torch is not None:
            self._others = _get_others()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._torch is not None and self._others is not None:
            _set_all({"torch": self._torch, **self._others})
            self._others = None

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._final = {"torch": torch.get_rng_state(), **_get_others()}
            self._end()

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        # The batch that failed will be made again, from where the last one left off; not so for the other
        # generators, whose states take too long to be kept after each batch.
        self._final = {
            "torch": torch.get_rng_state() if self._torch is None else self._torch,
            **_get_others(),
        }
        self._failed = True
        self._end()

    def _end(self) -> None:
        if self._hook is not None:
            self._hook.undo()
            self._hook = None

    @override
    def state_dict(self) -> dict[str, Any]:
        own = self._final
        if own is None and self._others is not None:
            own = {"torch": self._torch, **self._others}
        if own is None:
            own = {"torch": torch.get_rng_state(), **_get_others()}
        # After an exception the other processes may never get here.
        if self._failed or not distributed.is_available() or not distributed.is_initialized():
            return {"ranks": [own]}
        ranks: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(ranks, own)
        return {"ranks": ranks}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        ranks = state_dict["ranks"]
        self._restore = dict(ranks[self._rank if self._rank < len(ranks) else 0])


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Find the checkpoint that a killed run goes on from: the newest that was written whole.

    Lightning writes a checkpoint into the system's folder for temporary files and moves it into place. Where
    that is on another disk, moving is copying, and a kill in the middle leaves part of a file under the final
    name. Such files are skipped: the sums that torch wrote into them are compared with their content. Sharded
    checkpoints, which are folders, are not looked into.

    Args:
        folder: Where `ModelCheckpoint` writes; it need not exist yet.

    Returns:
        The checkpoint, for `fit(ckpt_path=...)`; None if there is none yet, so that the run begins anew.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> torch.save({}, folder / "step=2.ckpt")
        >>> newest_checkpoint(folder).name
        'step=2.ckpt'
    """
    found = [path for path in Path(folder).glob("*.ckpt") if path.exists()]  # no links to what was deleted
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if _is_whole(path):
            return path
        warnings.warn(f"{path} is not whole and is left out; delete it.", stacklevel=2)
    if not found and (below := next(Path(folder).glob("**/*.ckpt"), None)):
        warnings.warn(
            f"There is no checkpoint in {folder}, only below it, as {below}, which may be of another run. "
            "Give its folder. Where a metric's name has a slash, as in ModelCheckpoint(filename="
            '"{val/acc}"), auto_insert_metric_name=False keeps checkpoints together.',
            stacklevel=2,
        )
    return None


def _is_whole(path: Path) -> bool:
    if path.is_dir():
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


def _get_others() -> dict[str, Any]:
    """Return all global random states but torch's on the CPU; no NumPy types, which a safe load refuses."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(gauss)),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_all(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
