"""Estimators: from what rehearsal revealed to a damage rate per bin.

An estimator sees counts per bin, summed over ranks, and never the data, the model or the bins themselves, so
every estimator works with every partition. To write your own, subclass `Estimator` and put it through
`lightning_mixcd.testing.check_estimator`.
"""

from lightning_mixcd.estimators.base import Estimator
from lightning_mixcd.estimators.decayed_beta import DecayedBeta
from lightning_mixcd.estimators.last_batch import LastBatch
from lightning_mixcd.estimators.running_mean import RunningMean
from lightning_mixcd.estimators.static import Static

__all__ = ["DecayedBeta", "Estimator", "LastBatch", "RunningMean", "Static"]
