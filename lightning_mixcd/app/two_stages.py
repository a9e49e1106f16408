"""A run's two stages of training, as influence functions see them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import Subset

from lightning_mixcd.app.finished_run import FinishedRun
from lightning_mixcd.app.queries import readout_of
from lightning_mixcd.capture import Readout
from lightning_mixcd.errors import CaptureError
from lightning_mixcd.influence import (
    ConjugateGradients,
    Exact,
    KroneckerFactored,
    Solver,
    Stage,
    TwoStages,
)
from lightning_mixcd.influence.stage import Parameters
from lightning_mixcd.traceless import outputs_of
from lightning_mixcd.wiring import rehearsal_step

__all__ = ["RunStages", "solver_for"]

DAMPING = 1e-3
# Parameters up to which a solver is the default.
EXACT_UP_TO, ITERATIVE_UP_TO = 2_000, 200_000


class RunStages:
    """Pretraining and finetuning of a run, ready to be asked about queries.

    The embedding is what both losses depend on: the whole network where both tasks have the same outputs, all
    but the heads where each task has its own.

    Args:
        run: The run; parameters that a stage's loss does not depend on are frozen.
        alpha: See `influence`.
        solver: See `influence`; by default one that the number of parameters allows.
        batch_size: Samples per forward.

    Attributes:
        base: Pretraining.
        finetuned: Finetuning.
    """

    def __init__(
        self, run: FinishedRun, *, alpha: float, solver: Solver | None = None, batch_size: int = 256
    ) -> None:
        self.base, self.finetuned = (
            _trained(Stage(module, run.train[task], batch_size=batch_size, readout=readout_of(task)))
            for task, module in (("prior", run.base), ("new", run.finetuned))
        )
        trained = self.base.parameters()
        embedding = {*trained} & {*self.finetuned.parameters()}
        solver = solver or solver_for(sum(p.numel() for p in trained.values()))
        self._both = TwoStages(
            self.base, self.finetuned, embedding=embedding.__contains__, alpha=alpha, solver=solver
        )
        self._val = run.val

    def direction(self, task: str, index: Sequence[int]) -> Parameters:
        """Find what scores the pool for some validation samples together.

        Args:
            task: "prior" or "new".
            index: Their positions in its validation set.

        Returns:
            The direction, for `score_pool`.
        """
        pool = self._val[task]
        data = replace(pool, dataset=Subset(pool.dataset, index))
        asked = replace(self.finetuned, data=data, readout=readout_of(task))
        return self._both.direction(asked)


def solver_for(n_parameters: int) -> Solver:
    """Choose a solver by what it takes: exact for small models, EK-FAC for large ones.

    Args:
        n_parameters: Parameters of the model.

    Returns:
        The solver.

    Example:
        >>> type(solver_for(50_000)).__name__
        'ConjugateGradients'
    """
    if n_parameters <= EXACT_UP_TO:
        return Exact(DAMPING)
    if n_parameters <= ITERATIVE_UP_TO:
        return ConjugateGradients(DAMPING)
    return KroneckerFactored(damping=1e-4, sampled=drawn_losses)


def drawn_losses(module: LightningModule, batch: object) -> Tensor:
    """Return the loss of each row for a class that the model draws.

    Args:
        module: The module.
        batch: The batch.

    Returns:
        Losses, `(R,)`.

    Raises:
        CaptureError: If there are no logits of classes, or not the same of both tasks.
    """
    readout = Readout()
    reading = readout.read(outputs_of(module, batch, readout), batch, with_logits=True, with_graph=True)
    logits = reading.logits
    if logits is None or logits.ndim != 2 or rehearsal_step(module) is not None:
        raise CaptureError(
            "EK-FAC draws labels from logits of classes, the same in both stages, which this model does not "
            "have. Take solver=ekfac solver.sampled=null, which goes by the labels of the data."
        )
    return cross_entropy(logits, logits.softmax(dim=1).multinomial(1)[:, 0], reduction="none")


def _trained(stage: Stage) -> Stage:
    given = {name: p for name, p in stage.module.named_parameters() if p.requires_grad}
    with stage.at_rest(), torch.enable_grad():
        loss = stage.row_losses(next(stage.batches())).sum()
        slopes = torch.autograd.grad(loss, [*given.values()], allow_unused=True)
    for parameter, slope in zip(given.values(), slopes, strict=True):
        parameter.requires_grad_(slope is not None)
    return stage
