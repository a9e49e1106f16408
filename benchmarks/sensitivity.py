"""How much the settings of `HeadProbe` and `ProbeMatching` matter, one at a time around the defaults.

Runs are those of `study.sh` at mix ratio 1/16, the ledger for nothing: on intents, where aiming at damage
helps, and on fashion, where it may hurt. What has been run already is kept.

    MIXCD_DATA=... python benchmarks/sensitivity.py sensitivity --base study/base > table.md
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from hydra import compose, initialize_config_dir
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger
from study_tables import markdown, mean_gain, text
from torch import nn

from lightning_mixcd import (
    HeadProbe,
    Pool,
    PredictedForgetting,
    ProbeMatching,
    Readout,
    RehearsalCallback,
    RehearsalDataModule,
    Strategy,
    Uniform,
    record_ledger,
)
from lightning_mixcd.app.base import base_model
from lightning_mixcd.app.conf import conf_dir, hush, make
from lightning_mixcd.app.outcome import Outcome
from lightning_mixcd.app.run import configured_pairing
from lightning_mixcd.report import Record, read_records
from lightning_mixcd.report.tables import compare
from lightning_mixcd.strategies import _probing
from lightning_mixcd.strategies._calibration import Calibration
from lightning_mixcd.strategies._drift import MODELS, DriftModels
from lightning_mixcd.tasks import Pairing

# Pairing: experiment, model, and compute units with those of the ledger's pass on top.
PAIRINGS = {
    "intents": ("study", "intents", 144966),
    "topics": ("study", "topics", 75499),
    "sentiment": ("study", "sentiment", 80120),
    "fashion": ("study", "image_mlp", 90000),
    "rotated": ("study", "image_mlp", 85300),
    "usps": ("study", "image_mlp", 80300),
    "nli2": ("study", "nli", 65055),
    "intents_text": ("full_intents", "intents_text", 14800),
    "topics_text": ("full_topics", "topics_text", 17700),
    "sentiment_text": ("full_sentiment", "sentiment_text", 7680),
}
BOTH = {
    "halflife_steps": (25, 400),
    "uniform_share": (0, 0.5),
    "rank": (16, 256),
    "lag": (1, 4, 16),
    "drift": ("none", "linear"),
    "coordinates": (16, 32, 64),
    "head": ("logits",),
}
SWEPT: dict[type[Strategy], dict[str, tuple[Any, ...]]] = {
    HeadProbe: {
        "candidates_per_row": (16, 256),
        "sharpness": (1, 3, 8),
        "importance": (0.5, 1),
        "calibration": (25,),
        **BOTH,
    },
    ProbeMatching: {"candidates_per_row": (2, 16), **BOTH},
    PredictedForgetting: {},
}


class Variant(NamedTuple):
    """A strategy with at most one setting that is not the default."""

    method: type[Strategy]
    setting: str = ""
    value: object = None

    @property
    def name(self) -> str:
        """Name in tables and folders."""
        return f"{self.method.__name__}_{self.setting}={self.value}" if self.setting else self.method.__name__

    def strategy(self) -> Strategy:
        """Make the strategy."""
        elsewhere = self.setting in {"", "lag", "coordinates", "head", "drift", "calibration"}
        return self.method(**({} if elsewhere else {self.setting: self.value}))

    def inside(self) -> AbstractContextManager[object]:
        """Change what no argument changes, if that is the setting.

        One model of drift is used, whatever another one foresees; or rates fade with their own half-life.
        """
        if self.setting == "drift":
            return patch.object(DriftModels, "best", lambda models: models.fits[MODELS.index(self.value)])
        if self.setting == "calibration":
            return patch.object(_probing, "Calibration", lambda n, _: Calibration(n, self.value))
        return nullcontext()


def variants() -> Iterator[Variant]:
    """List all of them, the defaults first."""
    yield Variant(Uniform)
    for method, settings in SWEPT.items():
        yield Variant(method)
        for setting, values in settings.items():
            yield from (Variant(method, setting, value) for value in values)


@lru_cache(1)
def task(data: str, seed: int, base: Path) -> tuple[Any, Any]:
    """Read a pairing; return its configuration and its data."""
    experiment, model, _ = PAIRINGS[data]
    overrides = [f"experiment={experiment}", f"data={data}", f"model={model}", f"seed={seed}"]
    with initialize_config_dir(conf_dir(), version_base="1.3"):
        config = compose("train", [*overrides, f"base_dir={base}", "trainer.enable_progress_bar=false"])
    return config, configured_pairing(config)


def finetune(
    config: Any, trainer: Trainer, module: LightningModule, pairing: Pairing, pool: Pool, ledger: Path
) -> None:
    """Finetune beside the pool, with all that is random from the seed."""
    both = RehearsalDataModule(
        pairing.new,
        pool,
        mix_ratio=config.mix_ratio,
        ledger=ledger,
        prior_val=pairing.prior_val,
        order_seed=config.seed,
    )
    seed_everything(config.seed, workers=True, verbose=False)
    trainer.fit(module, datamodule=both)


def run(variant: Variant, data: str, seed: int, folder: Path, base: Path) -> None:
    """Finetune once, and write down what came out, unless that was done before."""
    output = folder / data / variant.name / str(seed)
    if (output / "result.json").exists():
        return
    config, pairing = task(data, seed, base)
    module, ledger = base_model(config, pairing)
    if variant.setting == "coordinates":
        keep = {"features": ("float16", variant.value)}
        ledger = ledger.with_name(f"coordinates_{variant.value}.ledger")
        record_ledger(module, pairing.pool, ledger, keep=keep)
    readout = Readout()
    if variant.setting == "head":
        # Drift of the logits themselves, of which the head makes nothing.
        module.network = nn.Sequential(module.network, nn.Identity())
        readout, ledger = Readout(features="network.1"), ledger.with_name("logits.ledger")
        record_ledger(module, pairing.pool, ledger, keep=["features"], readout=readout)
    strategy = variant.strategy()
    units = PAIRINGS[data][-1] - (0 if strategy.needs_ledger else len(pairing.pool))
    rehearsal = RehearsalCallback(strategy, max_compute_units=units, seed=seed, readout=readout)
    outcome, logger = Outcome(rehearsal), CSVLogger(output, "logs", "")
    trainer: Trainer = make(
        config.trainer,
        max_epochs=1000,
        enable_checkpointing=False,
        logger=logger,
        callbacks=[rehearsal, outcome],
    )
    pool = pairing.pool
    if variant.setting == "lag":
        pool = replace(pool, lag=variant.value)
    start = time.perf_counter()
    with variant.inside():
        finetune(config, trainer, module, pairing, pool, ledger)
    outcome.collect(trainer)
    Record(
        name=variant.name,
        mix_ratio=config.mix_ratio,
        seed=seed,
        data=data,
        prior_accuracy=float(trainer.callback_metrics["val/prior/accuracy"]),
        new_accuracy=float(trainer.callback_metrics["val/new/accuracy"]),
        compute_units=rehearsal.compute_units,
        seconds=time.perf_counter() - start,
        damaged_share=outcome.damaged_share,
        steps=trainer.global_step,
    ).write(output)


def table(folder: Path, pairings: list[str]) -> str:
    """Compare the defaults with uniform rehearsal, and every other variant with its default."""
    found = {data: [*read_records(folder / data).values()] for data in pairings}
    names = ("Uniform", *(method.__name__ for method in SWEPT))
    against = {
        (data, name): {row.name: row for row in compare(found[data], reference=name)}
        for data in pairings
        for name in names
    }
    lines = []
    for variant in variants():
        reference = variant.method.__name__ if variant.setting else "Uniform"
        rows = [row for data in pairings if (row := against[data, reference].get(variant.name))]
        if variant.method is Uniform or len(rows) < len(pairings):
            continue
        cells = [
            [text(row.prior_gain), text(row.new_gain), f"{100 * (row.damaged_share or 0):.1f}"]
            for row in rows
        ]
        name = f"{variant.setting}={variant.value}" if variant.setting else f"**{variant.name} - uniform**"
        seeds, mean = f"{min(row.n for row in rows)}", text(mean_gain([row.prior_gain for row in rows]))
        lines.append([name, seeds, *chain(*cells), mean])
    columns = [f"{data}: {what}" for data in pairings for what in ("prior", "new", "damaged")]
    return markdown(["setting", "seeds", *columns, "mean: prior"], lines)


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the runs")
    parser.add_argument("--base", type=Path, default=Path("study/base"), help="folder of base models")
    parser.add_argument("--data", nargs="+", default=["intents", "fashion"], choices=PAIRINGS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="variants whose name has this, and the defaults")
    args = parser.parse_args()
    hush()
    for seed in range(args.seeds):
        for data in args.data:
            for variant in variants():
                if args.only in variant.name or not variant.setting:
                    run(variant, data, seed, args.folder, args.base)
    print(table(args.folder, args.data))


if __name__ == "__main__":
    main()
