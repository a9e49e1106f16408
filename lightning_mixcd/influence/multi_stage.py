"""How much a pretrain sample had to do with what a finetuned model predicts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lightning_mixcd.data.pool import Pool
from lightning_mixcd.errors import check_range
from lightning_mixcd.influence.curvature import Curvature
from lightning_mixcd.influence.scoring import check_file, score_pool
from lightning_mixcd.influence.solvers import ConjugateGradients, Solver
from lightning_mixcd.influence.stage import Parameters, Stage

__all__ = ["TwoStages", "influence"]


def influence(
    base: Stage,
    finetuned: Stage,
    queries: Pool | Dataset[Any] | Sequence[Any],
    *,
    embedding: str | Callable[[str], bool] = "",
    alpha: float | None = None,
    solver: Solver | None = None,
    path: str | PathLike[str] | None = None,
) -> npt.NDArray[np.float64]:
    """Score each pretrain sample by how much it raised the finetuned model's loss on some queries.

    The score of a sample is the derivative of the mean query loss by the weight of the sample in pretraining,
    through both stages (multi-stage influence function: Chen et al. 2020, arXiv:2007.09081). Taking the
    sample out of N changes the query loss by about -score / N: a positive score opposes the queries, a
    negative one supports them.

    Args:
        base: The pretrained model and the pretrain samples.
        finetuned: The finetuned model and the finetune samples.
        queries: Samples whose mean loss is explained, read as the finetune samples are; one of them in a list
            explains that one.
        embedding: What both models share: the name of a submodule that both have, or a rule that says of a
            parameter's name whether it is shared. By default the whole model is.
        alpha: Where finetuning updated the embedding, how strongly it was held at its pretrained values: the
            objective of finetuning is taken to be its own plus alpha times the squared distance from them.
            None where finetuning kept the embedding fixed.
        solver: Solves with Hessians; `ConjugateGradients()` if None.
        path: File for the scores, `.npy`; an interrupted scoring goes on there. None keeps them in memory.

    Returns:
        Scores, float64, `(N,)`, in the order of the base stage's data.

    Raises:
        ValueError: If embedding, alpha or the two models do not fit together, `path` is a folder, or a loss
            has no finite derivatives.
        CaptureError: If there is not one loss per row.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.eye(2), torch.tensor([[1.0], [0.0]]))
        >>> squares = lambda module, batch: (module(batch[0]) - batch[1])[:, 0] ** 2
        >>> model = torch.nn.Linear(2, 1, bias=False)
        >>> _ = model.weight.data.fill_(0.5)
        >>> stage = Stage(model, data, squares)
        >>> from lightning_mixcd.influence import Exact
        >>> influence(stage, stage, data, solver=Exact())  # one stage: the classical influence function
        array([-0.5, -0.5])
    """
    check_file(path)
    stages = TwoStages(base, finetuned, embedding=embedding, alpha=alpha, solver=solver)
    return score_pool(base, stages.direction(queries), path=path)


class TwoStages:
    """Both stages, ready to be asked about one set of queries after the other.

    What a solver needs of a Hessian is made once for all of them.

    Args:
        base: See `influence`.
        finetuned: See `influence`.
        embedding: See `influence`.
        alpha: See `influence`.
        solver: See `influence`.

    Raises:
        ValueError: If embedding, alpha or the two models do not fit together.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.eye(2), torch.tensor([[1.0], [0.0]]))
        >>> squares = lambda module, batch: (module(batch[0]) - batch[1])[:, 0] ** 2
        >>> stage = Stage(torch.nn.Linear(2, 1, bias=False), data, squares)
        >>> from lightning_mixcd.influence import Exact
        >>> stages = TwoStages(stage, stage, solver=Exact())
        >>> [stages.direction([data[i]])["weight"].shape for i in (0, 1)]
        [torch.Size([1, 2]), torch.Size([1, 2])]
    """

    def __init__(
        self,
        base: Stage,
        finetuned: Stage,
        *,
        embedding: str | Callable[[str], bool] = "",
        alpha: float | None = None,
        solver: Solver | None = None,
    ) -> None:
        shared = _shared(base, finetuned, embedding, alpha)
        own = [name for name in base.parameters() if name not in shared]
        head = [name for name in finetuned.parameters() if name not in shared]
        self._finetuned, self._alpha = finetuned, alpha
        self._solver = solver or ConjugateGradients()
        self._pretraining = Curvature(base, [*shared, *own])
        self._both = Curvature(finetuned, [*shared, *head], shift=dict.fromkeys(shared, 2 * (alpha or 0.0)))
        self._head = Curvature(finetuned, head) if head and alpha is None else None
        self._n_shared = sum(base.parameters()[name].numel() for name in shared)

    def direction(self, queries: Stage | Pool | Dataset[Any] | Sequence[Any]) -> Parameters:
        """Make the vector whose product with a pretrain sample's gradient is minus that sample's score.

        It is all that depends on the queries: for new pretrain samples it need not be made again.

        Args:
            queries: See `influence`; or a `Stage` of the finetuned module, where their losses are read in
                another way than those of the finetune samples.

        Returns:
            Tensors by name of the base model's parameters.

        Raises:
            ValueError: If a stage is given that is of another module, or a loss has no finite derivatives.
        """
        asked = queries if isinstance(queries, Stage) else replace(self._finetuned, data=queries)
        if asked.module is not self._finetuned.module:
            raise ValueError(
                f"`queries` must be asked of the finetuned module, got a stage of another "
                f"{type(asked.module).__name__}. Use dataclasses.replace(finetuned, data=..., losses=...)."
            )
        slope = Curvature(asked, self._both.names).gradient()
        pull = self._pull_frozen(slope) if self._alpha is None else self._pull_updated(slope, self._alpha)
        padding = pull.new_zeros(self._pretraining.size - len(pull))
        found = self._solver.solve(self._pretraining, torch.cat([pull, padding]))
        return self._pretraining.named(found)

    # How the query loss moves with the pretrained embedding, where finetuning trains the rest around it.
    def _pull_frozen(self, slope: Tensor) -> Tensor:
        n = self._n_shared
        if self._head is None:
            return slope
        answer = self._solver.solve(self._head, slope[n:])
        padded = torch.cat([answer.new_zeros(n), answer])
        return slope[:n] - self._both.product(padded)[:n]

    # The same where finetuning moves the embedding too, held at the pretrained one by alpha.
    def _pull_updated(self, slope: Tensor, alpha: float) -> Tensor:
        return 2 * alpha * self._solver.solve(self._both, slope)[: self._n_shared]


def _shared(
    base: Stage, finetuned: Stage, embedding: str | Callable[[str], bool], alpha: float | None
) -> list[str]:
    if alpha is not None:
        check_range("(0, inf)", "Pass None where finetuning kept the embedding.", alpha=alpha)
    old, new = base.parameters(), dict(finetuned.module.named_parameters())
    shared = [name for name in old if _is_chosen(name, embedding)]
    if not shared:
        raise ValueError(
            f"`embedding` must name a submodule with parameters that the base stage trained, got "
            f"{embedding!r}. These are: {list(old)[:20]}."
        )
    for name in shared:
        problem = _difference(old[name], new.get(name), frozen=alpha is None)
        if problem:
            raise ValueError(
                f"`embedding` must be the same in both stages, but {name!r} {problem}. The finetuned "
                f"model has: {list(new)[:20]}."
            )
    return shared


def _is_chosen(name: str, embedding: str | Callable[[str], bool]) -> bool:
    if not isinstance(embedding, str):
        return embedding(name)
    return not embedding or name.startswith(f"{embedding}.") or name == embedding


def _difference(old: Tensor, new: Tensor | None, *, frozen: bool) -> str:
    if new is None:
        return "is not in the finetuned model"
    if old.shape != new.shape:
        return f"has shape {tuple(old.shape)} in the base model and {tuple(new.shape)} in the finetuned one"
    if frozen and not torch.equal(old, new.detach()):
        return "was changed by finetuning, which takes an `alpha` (None means that it was kept fixed)"
    if not frozen and not new.requires_grad:
        return "does not require gradients in the finetuned model; pass `alpha=None` where it was kept fixed"
    return ""
