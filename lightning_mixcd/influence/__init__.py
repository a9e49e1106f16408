"""Which pretrain samples a finetuned model's predictions come from: the multi-stage influence function.

`influence` scores a pool for some queries, `TwoStages` for one set of them after the other. Both need two
`Stage`s, a model and its data each, and a solver: `Exact` for small models, `ConjugateGradients` for any,
`KroneckerFactored` (EK-FAC) for large ones.
"""

from lightning_mixcd.influence.curvature import Curvature
from lightning_mixcd.influence.kronecker import KroneckerFactored
from lightning_mixcd.influence.multi_stage import TwoStages, influence
from lightning_mixcd.influence.scoring import score_pool
from lightning_mixcd.influence.solvers import ConjugateGradients, Exact, Solver
from lightning_mixcd.influence.stage import Stage

__all__ = [
    "ConjugateGradients",
    "Curvature",
    "Exact",
    "KroneckerFactored",
    "Solver",
    "Stage",
    "TwoStages",
    "influence",
    "score_pool",
]
