"""Finetune without forgetting: rehearse the pretrain samples that a model is losing.

Where to find what:

* `callback` — `RehearsalCallback`, which a Trainer needs; `data` — `RehearsalDataModule` for both tasks.
* `strategies` — which samples are rehearsed; `partitions` and `estimators` — what mix-cd is composed of.
* `schedules` — when rehearsal happens, and how much; `weights` — methods that act on weights as a whole.
* `ledger`, `record` — what the base model had right: the record on disk and its making.
* `capture` — where correctness is read from a training step; `probe` — looking at a model on purpose.
* `influence` — which pretrain samples a finetuned model's predictions come from.
* `metrics` — damage, retention, flips, compute units; `functional` — every formula, once.
* `testing` — the conformance suite for parts of your own.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_mixcd.callback import RehearsalCallback
    from lightning_mixcd.capture import Readout
    from lightning_mixcd.data import Pool, RehearsalDataModule, Streams, union_pool
    from lightning_mixcd.errors import CaptureError, JoinError, LedgerError, PoolError
    from lightning_mixcd.estimators import DecayedBeta
    from lightning_mixcd.ledger import Ledger
    from lightning_mixcd.ledger_callback import IndexedDataset, LedgerCallback
    from lightning_mixcd.record import record_ledger
    from lightning_mixcd.resume import ExactResume
    from lightning_mixcd.schedules import EveryNSteps
    from lightning_mixcd.strategies import (
        ASER,
        MIR,
        Auto,
        Candidates,
        ClassBalanced,
        FunctionStrategy,
        GDumbMemory,
        GradientMatching,
        Grasp,
        GSSMemory,
        HeadProbe,
        HerdingMemory,
        HighestLoss,
        LastLayerInfluence,
        LeastConfidence,
        LossProportional,
        MixCD,
        MostSupportive,
        NoRehearsal,
        Oracle,
        PredictedForgetting,
        ProbeMatching,
        ScreenDamaged,
        ScreenHighestLoss,
        Screening,
        ScreenLeastConfidence,
        Strategy,
        Uniform,
        UniformCorrect,
    )

__all__ = [
    "ASER",
    "MIR",
    "Auto",
    "Candidates",
    "CaptureError",
    "ClassBalanced",
    "DecayedBeta",
    "EveryNSteps",
    "ExactResume",
    "FunctionStrategy",
    "GDumbMemory",
    "GSSMemory",
    "GradientMatching",
    "Grasp",
    "HeadProbe",
    "HerdingMemory",
    "HighestLoss",
    "IndexedDataset",
    "JoinError",
    "LastLayerInfluence",
    "LeastConfidence",
    "Ledger",
    "LedgerCallback",
    "LedgerError",
    "LossProportional",
    "MixCD",
    "MostSupportive",
    "NoRehearsal",
    "Oracle",
    "Pool",
    "PoolError",
    "PredictedForgetting",
    "ProbeMatching",
    "Readout",
    "RehearsalCallback",
    "RehearsalDataModule",
    "ScreenDamaged",
    "ScreenHighestLoss",
    "ScreenLeastConfidence",
    "Screening",
    "Strategy",
    "Streams",
    "Uniform",
    "UniformCorrect",
    "record_ledger",
    "union_pool",
]

_HOMES = (
    "errors",
    "callback",
    "data",
    "estimators",
    "ledger_callback",
    "record",
    "resume",
    "schedules",
    "strategies",
)

if not TYPE_CHECKING:
    # Lightning takes seconds to import; a command tells a typo in its arguments before.
    def __getattr__(name: str) -> object:
        if name not in __all__:
            try:
                return import_module(f"{__name__}.{name}")
            except ModuleNotFoundError as error:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
        homes = (vars(import_module(f"{__name__}.{home}")) for home in _HOMES)
        globals()[name] = found = next(home[name] for home in homes if name in home)
        return found

    def __dir__() -> list[str]:
        return [*globals(), *__all__]
