"""One of the processes of `test_penalties.py` and `test_adapters.py`; writes down what it saw."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_mixcd import Pool, RehearsalCallback, Uniform
from lightning_mixcd.partitions import ByLabel
from lightning_mixcd.penalties import AGEM, DER, GEM, Distillation
from tests.adapters.low_rank import learnt_by
from tests.integration.launching import alike, joined, unlike
from tests.penalties.replay import ledger_with_logits
from tests.toys import Toy, finetune, pool, trainer, weights

PENALTIES = {
    "distillation": lambda: [Distillation(2.0, rows="both")],
    "der": lambda: [DER(1.0, beta=0.5)],
    "agem": lambda: [AGEM()],
    "gem": lambda: [GEM(ByLabel(), margin=0.0)],
}


def fit(name: str, batches: list[list[int]], **settings: Any) -> dict[str, Any]:
    module = Toy()
    callback = RehearsalCallback(
        Uniform(),
        pool=Pool(pool(), lag=1),
        ledger=ledger_with_logits(),
        mix_ratio=settings.pop("mix_ratio", 0.5),
        penalties=PENALTIES[name](),
    )
    loader = DataLoader(finetune(), batch_sampler=batches, generator=torch.Generator())
    trainer(callback, use_distributed_sampler=False, **settings).fit(module, loader)
    return {
        "seen": module.differentiated,
        "weights": weights(module).tolist(),
        "units": callback.compute_units,
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # this is no test; the tests read what it writes
    rank, together = int(os.environ["LOCAL_RANK"]), {"strategy": "ddp", "devices": 2}
    with joined(2, folder / "store"):
        found = {name: fit(name, alike(rank, 2), **together) for name in PENALTIES}
        for name in ("agem", "gem"):
            found[f"{name}, unlike"] = fit(name, unlike(rank), mix_ratio=0.25, **together)
        found["adapter"] = learnt_by(rank, 2, **together)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
