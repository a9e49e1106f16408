"""How well `HeadProbe` aims, and where its aim is lost: runs of the studies that look at the pool at times.

Every 50 steps all base-correct samples are forwarded, so that it is known which are damaged, and where their
features are. Margins that the current head makes of some features then tell damaged samples from others, more
or less well: of base features, of those that the probe corrects, and of those that the best models of drift
make, an offset per class and linear maps.

    MIXCD_DATA=... python benchmarks/probe_aim.py --base study/base > table.md
    python benchmarks/probe_aim.py --base full/base --data intents_text sentiment_text
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from sensitivity import PAIRINGS, finetune, task
from study_tables import markdown
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from lightning_mixcd import HeadProbe, Ledger, Pool, Readout, RehearsalCallback
from lightning_mixcd.app.base import base_model
from lightning_mixcd.app.conf import hush, make
from lightning_mixcd.functional.drift import coordinates, corrected, feature_basis, moments, ridge_fit
from lightning_mixcd.probe import Probe
from lightning_mixcd.strategies._head import Head, margins_of
from lightning_mixcd.types import Outcome

EVERY = 50
RANK = 64  # of the probe, by default
DRAWN, CANDIDATES = 4, 256
SOURCES = ("base features", "as drawn", "as learnt", "best offsets", "best map of 64", "best map of all")


class Counting(HeadProbe):
    """Counts what it rehearses, and what of it is damaged."""

    seen = damaged = 0

    def head(self) -> Head:
        """Return the live head."""
        return self._attached()

    def tally(self, outcome: Outcome) -> Tensor:
        """Count, besides."""
        self.seen += len(outcome.correct)
        self.damaged += int((~outcome.correct).sum())
        return super().tally(outcome)


class Aim(Callback):
    """Measures at times how well margins tell which samples are damaged.

    Args:
        probe: The strategy of the run.
        pool: Where it draws from.
        ledger: What is known of the pool.
    """

    def __init__(self, probe: Counting, pool: Pool, ledger: Ledger) -> None:
        self.probe, self.pool = probe, pool
        self.correct = np.flatnonzero(ledger.correct)
        self.labels = torch.from_numpy(ledger.column("label")[self.correct]).long()
        self.base = torch.from_numpy(ledger.column("features")[self.correct]).float()
        self.damaged: list[float] = []
        self.auc: dict[str, list[float]] = {name: [] for name in SOURCES}
        self.least: dict[str, list[float]] = {name: [] for name in SOURCES}

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Look, every so many steps, at all samples, and just before at what draws go by."""
        if trainer.global_step % EVERY == EVERY - self.pool.lag:
            self.signal = self.probe.signal().clone()
        if trainer.global_step % EVERY or not trainer.global_step:
            return
        context = trainer.precision_plugin.forward_context
        look = Probe(pl_module, self.pool, Readout(), transfer=lambda batch: batch, context=context)
        read = [reading for _, reading in look.readings(self.correct, keep=("features",))]
        now = torch.cat([reading.features for reading in read if reading.features is not None]).float()
        damaged = ~torch.cat([reading.correct for reading in read])
        self.damaged.append(float(damaged.float().mean()))
        for name, margins in zip(SOURCES, self.margins(now), strict=True):
            self.auc[name].append(float(binary_auroc(-margins, damaged)))
            self.least[name].append(float(damaged[least_of_candidates(margins)].float().mean()))

    def margins(self, now: Tensor) -> list[Tensor]:
        """Return the margins that the head makes of each source of features."""
        drawn, learnt = (self.probe.margins(self.correct, s) for s in (self.signal, self.probe.signal()))
        best = [best_map(self.base, now, rank) for rank in (RANK, self.base.shape[1])]
        best.insert(0, best_offsets(self.base, now, self.labels))
        head = self.probe.head()
        own, *known = (
            margins_of(head(features, head.parameters()), self.labels) for features in (self.base, *best)
        )
        return [own, drawn, learnt, *known]


def best_offsets(base: Tensor, now: Tensor, labels: Tensor) -> Tensor:
    """Return base features brought up to date by the mean drift of all samples of their class, `(n, d)`."""
    classes = torch.nn.functional.one_hot(labels).float()
    means = (classes.T @ (now - base)) / classes.sum(dim=0).clamp(min=1)[:, None]
    return base + means[labels]


def best_map(base: Tensor, now: Tensor, rank: int) -> Tensor:
    """Return base features brought up to date by the linear map that knows all samples, `(n, d)`."""
    basis = feature_basis(base, rank)
    fit = ridge_fit(moments(coordinates(base, basis), now - base), ridge=1.0)
    return corrected(base, basis, torch.cat([torch.zeros_like(fit[:1]), fit]))


def least_of_candidates(margins: Tensor) -> Tensor:
    """Return, of many sets of random candidates, those with the least margins, as the sharpest draw would."""
    sets = torch.from_numpy(np.random.default_rng(0).integers(len(margins), size=(500, CANDIDATES)))
    return sets.gather(1, margins[sets].argsort(dim=1)[:, :DRAWN]).flatten()


def run(data: str, seed: int, base: Path) -> tuple[Aim, float]:
    """Finetune once; return what was measured, and which share of what was rehearsed was damaged."""
    config, pairing = task(data, seed, base)
    module, path = base_model(config, pairing)
    probe = Counting()
    aim = Aim(probe, pairing.pool, Ledger.open(path))
    rehearsal = RehearsalCallback(probe, max_compute_units=PAIRINGS[data][-1], seed=seed)
    trainer: Trainer = make(
        config.trainer, max_epochs=1000, enable_checkpointing=False, logger=False, callbacks=[rehearsal, aim]
    )
    finetune(config, trainer, module, pairing, pairing.pool, path)
    return aim, probe.damaged / probe.seen


def main() -> None:
    """Run everything, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, default=Path("study/base"), help="folder of base models")
    parser.add_argument("--data", nargs="+", default=[*PAIRINGS], choices=PAIRINGS)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    hush()
    lines = []
    for data in args.data:
        aims, rehearsed = zip(*(run(data, seed, args.base) for seed in range(args.seeds)), strict=True)
        first, last = (statistics.fmean(aim.damaged[k] for aim in aims) for k in (0, -1))
        shares = [f"{100 * value:.0f}" for value in (first, last, statistics.fmean(rehearsed))]
        cells = []
        for name in SOURCES:
            auc = statistics.fmean(value for aim in aims for value in aim.auc[name])
            least = statistics.fmean(value for aim in aims for value in aim.least[name])
            cells.append(f"{auc:.2f} / {100 * least:.0f}")
        lines.append([data, *shares, *cells])
    print(markdown(["pairing", "damaged at first", "at last", "rehearsed", *SOURCES], lines))


if __name__ == "__main__":
    main()
