"""Strategies: which pool samples are rehearsed next.

A strategy draws on the host and learns on the device. The controls (`NoRehearsal`, `Uniform`,
`UniformCorrect`, `ClassBalanced`) learn nothing; `MixCD` learns damage rates per bin from what is rehearsed
anyway; `Oracle` looks at the whole pool and is for measuring only. mix-cd with meaningless bins, the control
that isolates the partition, is `MixCD(partition=Shuffled(...))`.

To write your own, subclass `Strategy` in one file and put it through
`lightning_mixcd.testing.check_strategy`.
"""

from lightning_mixcd.strategies.base import PoolProbe, Strategy
from lightning_mixcd.strategies.class_balanced import ClassBalanced
from lightning_mixcd.strategies.mixcd import MixCD
from lightning_mixcd.strategies.no_rehearsal import NoRehearsal
from lightning_mixcd.strategies.oracle import Oracle
from lightning_mixcd.strategies.uniform import Uniform, UniformCorrect

__all__ = [
    "ClassBalanced",
    "MixCD",
    "NoRehearsal",
    "Oracle",
    "PoolProbe",
    "Strategy",
    "Uniform",
    "UniformCorrect",
]
