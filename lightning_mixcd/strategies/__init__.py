"""Strategies: which pool samples are rehearsed next.

A strategy draws on the host and learns on the device. The controls (`NoRehearsal`, `Uniform`,
`UniformCorrect`, `ClassBalanced`) learn nothing; `MixCD` learns damage rates per bin from what is rehearsed
anyway, `HeadProbe` and `ProbeMatching` predict it sample by sample; `Oracle` looks at the whole pool and is
for measuring only. mix-cd with meaningless bins, the control that isolates the partition, is
`MixCD(partition=Shuffled(...))`. `Auto` takes one of two strategies, by what ledger and module have.

By records, without a look at the model within a step: `LossProportional`, `HighestLoss`, `LeastConfidence`,
`PredictedForgetting` and `Grasp` over the whole pool; `GDumbMemory`, `HerdingMemory` and `GSSMemory` from a
memory that is chosen once; `FunctionStrategy` does what a function of yours says.

A `Screening` draws candidates and lets the model choose among them, which is charged: `MIR`,
`LastLayerInfluence`, `GradientMatching`, `ASER`, `ScreenDamaged`, `ScreenHighestLoss` and
`ScreenLeastConfidence`.

To write your own, subclass `Strategy` in one file and put it through
`lightning_mixcd.testing.check_strategy`.
"""

from lightning_mixcd.strategies._screening import Candidates, Screening
from lightning_mixcd.strategies._uniform import Uniform, UniformCorrect
from lightning_mixcd.strategies.aser import ASER
from lightning_mixcd.strategies.auto import Auto
from lightning_mixcd.strategies.base import PoolProbe, Strategy
from lightning_mixcd.strategies.class_balanced import ClassBalanced
from lightning_mixcd.strategies.function_strategy import FunctionStrategy
from lightning_mixcd.strategies.gdumb_memory import GDumbMemory
from lightning_mixcd.strategies.gradient_matching import GradientMatching
from lightning_mixcd.strategies.grasp import Grasp
from lightning_mixcd.strategies.gss_memory import GSSMemory
from lightning_mixcd.strategies.head_probe import HeadProbe
from lightning_mixcd.strategies.herding_memory import HerdingMemory
from lightning_mixcd.strategies.highest_loss import HighestLoss
from lightning_mixcd.strategies.last_layer_influence import LastLayerInfluence
from lightning_mixcd.strategies.least_confidence import LeastConfidence
from lightning_mixcd.strategies.loss_proportional import LossProportional
from lightning_mixcd.strategies.mir import MIR
from lightning_mixcd.strategies.mixcd import MixCD
from lightning_mixcd.strategies.most_supportive import MostSupportive
from lightning_mixcd.strategies.no_rehearsal import NoRehearsal
from lightning_mixcd.strategies.oracle import Oracle
from lightning_mixcd.strategies.predicted_forgetting import PredictedForgetting
from lightning_mixcd.strategies.probe_matching import ProbeMatching
from lightning_mixcd.strategies.screen_damaged import ScreenDamaged
from lightning_mixcd.strategies.screen_highest_loss import ScreenHighestLoss
from lightning_mixcd.strategies.screen_least_confidence import ScreenLeastConfidence

__all__ = [
    "ASER",
    "MIR",
    "Auto",
    "Candidates",
    "ClassBalanced",
    "FunctionStrategy",
    "GDumbMemory",
    "GSSMemory",
    "GradientMatching",
    "Grasp",
    "HeadProbe",
    "HerdingMemory",
    "HighestLoss",
    "LastLayerInfluence",
    "LeastConfidence",
    "LossProportional",
    "MixCD",
    "MostSupportive",
    "NoRehearsal",
    "Oracle",
    "PoolProbe",
    "PredictedForgetting",
    "ProbeMatching",
    "ScreenDamaged",
    "ScreenHighestLoss",
    "ScreenLeastConfidence",
    "Screening",
    "Strategy",
    "Uniform",
    "UniformCorrect",
]
