"""One of the processes of `test_model_parallel.py`; writes down what it saw."""

import json
import os
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils.data import DataLoader

from lightning_mixcd import (
    LedgerError,
    MixCD,
    Oracle,
    Pool,
    RehearsalCallback,
    RehearsalDataModule,
    record_ledger,
)
from lightning_mixcd.resume import ExactResume
from tests.integration.ddp_process import pool_rows
from tests.integration.launching import joined
from tests.integration.one_process import LAG
from tests.toys import Finetune, Listed, OnBatchEnd, Toy, finetune, pool, trainer

EPOCHS, STEP = 3, 5  # in mid-epoch, and with a batch that nothing was learnt from yet


class Sharded(Toy):
    """Layers cut in two under tensor parallelism, weights sharded over the processes that share the data."""

    def configure_model(self) -> None:
        mesh = self.device_mesh
        if mesh["tensor_parallel"].size() > 1:
            parallelize_module(
                self.net, mesh["tensor_parallel"], {"0": ColwiseParallel(), "3": RowwiseParallel()}
            )
        fully_shard(self.net, mesh=mesh["data_parallel"])


def fit(
    folder: Path,
    name: str,
    sizes: tuple[int, int],
    *,
    strategy: Any = None,
    ledger: str = "base.ledger",
    base: bool = True,
    plain: bool = False,
    whole_files: bool = False,
    resume: str | None = None,
) -> dict[str, Any]:
    pl.seed_everything(1 if resume is None else 2, verbose=False)
    module, logger, rates, rows = Sharded(lr=0.2, base=base), Listed(), [], []
    callback = RehearsalCallback(MixCD() if strategy is None else strategy)

    def note(_run: Any, _module: Any, outputs: Any, batch: Any) -> None:
        rates.append(callback.strategy.signal().tolist())
        rows.append(pool_rows(outputs, batch))

    keep = ModelCheckpoint(folder / name, filename="{step}", every_n_train_steps=STEP, save_top_k=-1)
    run = trainer(
        *(callback, ExactResume(), OnBatchEnd(note), keep),
        logger=logger,
        enable_checkpointing=True,
        log_every_n_steps=2,
        max_epochs=EPOCHS,
        devices=sizes[0] * sizes[1],
        strategy=ModelParallelStrategy(*sizes, save_distributed_checkpoint=not whole_files),
    )
    new = DataLoader(finetune(), 8) if plain else Finetune(shuffle=True)
    earlier = {"pool": Pool(pool(), lag=LAG), "ledger": folder / ledger, "mix_ratio": 0.5}
    checkpoint = None if resume is None else folder / resume / f"step={STEP}.ckpt"
    try:
        if plain:
            callback.pool, callback.ledger, callback.mix_ratio = earlier.values()
            run.fit(module, new, ckpt_path=checkpoint)
        else:
            run.fit(
                module, datamodule=RehearsalDataModule(new, **earlier, order_seed=4), ckpt_path=checkpoint
            )
    except LedgerError as error:
        return {"refused": str(error)}
    return {
        "seen": module.seen,
        "rates": rates,
        "rows": rows,
        "logged": logger.rows,
        "sharded": all(isinstance(p, DTensor) for p in module.parameters()),
        "weights": [p.full_tensor().tolist() for p in module.parameters()],
        "units": callback.compute_units,
        "sampler": type(run.train_dataloader.sampler).__name__,
    }


def two_processes(folder: Path) -> dict[str, Any]:
    if distributed.get_rank() == 0:
        record_ledger(Toy(), Pool(pool()), folder / "base.ledger")
    distributed.barrier()
    sharded = partial(fit, folder, sizes=(2, 1))
    return {
        "sharded": sharded("sharded"),
        "sharded resumed": sharded("resumed", resume="sharded"),
        "in one file": sharded("in one file", whole_files=True),
        "in one file resumed": sharded("resumed", resume="in one file", whole_files=True),
        "plain loader": sharded("plain", plain=True),
        "oracle": sharded("oracle", strategy=Oracle(every_n_steps=2)),
        "other weights": sharded("other", base=False),
        "no ledger": sharded("none", ledger="new.ledger"),
        "two halves": fit(folder, "two halves", (1, 2)),
    }


def four_processes(folder: Path) -> dict[str, Any]:
    both = partial(fit, folder, sizes=(2, 2))
    return {
        "both": both("both"),
        "both resumed": both("resumed", resume="both"),
        "both, plain loader": both("plain", plain=True),
        "2 to 4": fit(folder, "resumed", (4, 1), resume="sharded"),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # this is no test; the tests read what it writes
    rank, found = int(os.environ["LOCAL_RANK"]), {}
    for n, make in ((2, two_processes), (4, four_processes)):
        if rank < n:
            with joined(n, folder / f"store{n}"):
                found |= make(folder)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
