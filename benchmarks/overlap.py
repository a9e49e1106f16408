"""Whether fetching pool samples holds training up, when they come slowly but workers can keep up.

Each pool sample takes a millisecond to arrive, as from a disk or a network, so the 16 rows of a step take
16 ms. Wall time per step, the Trainer on 80 rows without rehearsal against 64 and 16 with it; as in
`step_cost.py`, one run of each variant per round, and ratios within a round.

    python benchmarks/overlap.py
"""

import argparse
import logging
import statistics
import time
import warnings

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from step_cost import FINETUNE, N_POOL, QUIET, REHEARSED, Batch, Clock, Module, Sequential, Vectors
from torch import nn
from torch.utils.data import DataLoader

from lightning_mixcd import MixCD, Pool, RehearsalCallback
from lightning_mixcd.ledger import Ledger

VARIANTS = ("plain", "0 workers", "1 worker", "2 workers")


class Slow(Vectors):
    """Samples that take their time to arrive."""

    def __getitem__(self, index: int) -> Batch:
        time.sleep(0.001)
        return super().__getitem__(index)


def run(variant: str, steps: int) -> float:
    """Train for some steps; return seconds per step."""
    seed_everything(0, verbose=False)
    clock = Clock(now=time.perf_counter)
    callbacks: list[Callback] = [clock]
    rows = FINETUNE + REHEARSED
    if variant != "plain":
        rows = FINETUNE
        pool = Pool(Slow(N_POOL, (784,)), num_workers=int(variant[0]), random=False)
        ledger = Ledger.from_arrays(correct=torch.rand(N_POOL) < 0.9, loss=torch.rand(N_POOL))
        ratio = REHEARSED / FINETUNE
        callbacks.append(RehearsalCallback(MixCD(), pool=pool, ledger=ledger, mix_ratio=ratio))
    network = Sequential(
        nn.Linear(784, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 10)
    )
    trainer = Trainer(callbacks=callbacks, **QUIET)
    trainer.fit(Module(network), DataLoader(Vectors(rows * steps, (784,)), batch_size=rows))
    return clock.seconds


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=110)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    rounds = [{v: run(v, arguments.steps) for v in VARIANTS} for _ in range(arguments.rounds)]
    print("| pool rows fetched by | step, ms | of plain |\n|---|---|---|")
    for variant in VARIANTS:
        ratios = [r[variant] / r["plain"] for r in rounds]
        step = statistics.median(r[variant] for r in rounds) * 1000
        spread = f"{statistics.median(ratios):.2f} [{min(ratios):.2f} .. {max(ratios):.2f}]"
        print(f"| {variant} | {step:.1f} | {spread} |")


if __name__ == "__main__":
    main()
