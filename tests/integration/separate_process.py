"""One of the processes of `test_separate.py`; writes down what it saw."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_mixcd import MixCD, Pool, RehearsalCallback
from lightning_mixcd.strategies import ScreenDamaged
from tests.integration.launching import alike, joined, unlike
from tests.toys import N_CLASSES, POOL_IDS, Toy, finetune, ids, ledger, pool, trainer, weights

STRATEGIES = {"mixcd": MixCD, "screen_damaged": ScreenDamaged}


class TwoHeads(Toy):
    """The old task keeps a head of its own, which only some processes use in some steps."""

    def __init__(self) -> None:
        super().__init__()
        self.old_head = nn.Linear(8, N_CLASSES)
        self.old_head.load_state_dict(self.net[-1].state_dict())
        self.kept: list[list[int]] = []

    def old_logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.old_head(self.net[:-1](x[:, :-1]))
        return logits

    def rehearsal_step(self, batch: Any, batch_idx: int) -> Any:
        if self.training:
            self.kept.append([batch_idx, *(i - POOL_IDS for i in ids(batch[0]))])
        logits = self.old_logits(batch[0])
        return {"loss": cross_entropy(logits, batch[1]), "logits": logits}


def fit(name: str, batches: list[list[int]], **settings: Any) -> dict[str, Any]:
    module, strategy = TwoHeads(), STRATEGIES[name]()
    callback = RehearsalCallback(
        strategy, pool=Pool(pool(), lag=1), ledger=ledger(), mix_ratio=settings.pop("mix_ratio", 0.5)
    )
    loader = DataLoader(finetune(), batch_sampler=batches, generator=torch.Generator())
    trainer(callback, use_distributed_sampler=False, **settings).fit(module, loader)
    signal = strategy.signal()
    return {
        "seen": module.seen,
        "kept": module.kept,
        "weights": weights(module).tolist(),
        "units": callback.compute_units,
        "signal": None if signal is None else signal.tolist(),
    }


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")  # this is no test; the tests read what it writes
    rank, found = int(os.environ["LOCAL_RANK"]), {}
    together = {"strategy": "ddp_find_unused_parameters_true", "devices": 2}
    with joined(2, folder / "store"):
        for name in STRATEGIES:
            found[name] = fit(name, alike(rank, 2), **together)
        found["unlike"] = fit("mixcd", unlike(rank), mix_ratio=0.25, **together)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
