"""Terms that hold a finetuned model near what it knew, beside any strategy."""

from lightning_mixcd.penalties.agem import AGEM
from lightning_mixcd.penalties.base import Apart, Penalty, Start, Step
from lightning_mixcd.penalties.der import DER
from lightning_mixcd.penalties.distillation import Distillation
from lightning_mixcd.penalties.ewc import EWC
from lightning_mixcd.penalties.flow import Flow
from lightning_mixcd.penalties.gem import GEM
from lightning_mixcd.penalties.kfac import KFAC
from lightning_mixcd.penalties.l2sp import L2SP
from lightning_mixcd.penalties.mas import MAS

__all__ = [
    "AGEM",
    "DER",
    "EWC",
    "GEM",
    "KFAC",
    "L2SP",
    "MAS",
    "Apart",
    "Distillation",
    "Flow",
    "Penalty",
    "Start",
    "Step",
]
