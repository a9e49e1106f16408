"""When to rehearse, and how much of the mix ratio.

A schedule is any function of the optimizer step, counted from 0, that returns a bool or a share of the mix
ratio in [0, 1]. One that goes by what training does is an `AdaptiveSchedule`.
"""

from lightning_mixcd.schedules.base import AdaptiveSchedule, Schedule
from lightning_mixcd.schedules.every_n_steps import EveryNSteps
from lightning_mixcd.schedules.expanding_intervals import ExpandingIntervals
from lightning_mixcd.schedules.hold_retention import HoldRetention
from lightning_mixcd.schedules.model_time import ModelTime
from lightning_mixcd.schedules.ramp import Ramp

__all__ = [
    "AdaptiveSchedule",
    "EveryNSteps",
    "ExpandingIntervals",
    "HoldRetention",
    "ModelTime",
    "Ramp",
    "Schedule",
]
