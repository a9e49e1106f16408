"""Derivatives of the objective of a stage, over its data in batches."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from lightning_mixcd.functional.joining import n_rows
from lightning_mixcd.influence.stage import Parameters, Stage

__all__ = ["Curvature"]

T = TypeVar("T")

_COLUMNS = 64  # of the Hessian, at once


class Curvature:
    """The Hessian of a stage's objective with respect to some of its parameters, as an operator.

    Vectors are flat: the parameters in the order of `names`, one after another.

    Args:
        stage: The stage.
        names: Names of the parameters, P numbers in all; others are held fixed.
        shift: What is added to the diagonal for each name, besides the stage's weight decay.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.eye(2), torch.zeros(2, 1))
        >>> squares = lambda module, batch: (module(batch[0]) - batch[1])[:, 0] ** 2
        >>> curvature = Curvature(Stage(torch.nn.Linear(2, 1, bias=False), data, squares), ["weight"])
        >>> curvature.product(torch.tensor([1.0, 0.0]))
        tensor([1., 0.])
    """

    def __init__(self, stage: Stage, names: Sequence[str], *, shift: dict[str, float] | None = None) -> None:
        self.stage, self.names = stage, tuple(names)
        self._all = {name: p.detach() for name, p in stage.module.named_parameters()}
        self.shift = {name: stage.weight_decay + (shift or {}).get(name, 0.0) for name in self.names}
        filled = {name: torch.full_like(p, self.shift[name]) for name, p in self.at().items()}
        self._diagonal = self.flat(filled)
        self._prepared: dict[Hashable, Any] = {}

    @property
    def size(self) -> int:
        """Number of parameters, P."""
        return self._diagonal.numel()

    def at(self) -> Parameters:
        """Return the parameters at which derivatives are taken, by name."""
        return {name: self._all[name] for name in self.names}

    def flat(self, parameters: Parameters) -> Tensor:
        """Put tensors by name into one vector.

        Args:
            parameters: One for each of `names`.

        Returns:
            The vector, `(P,)`.
        """
        return torch.cat([parameters[name].reshape(-1) for name in self.names])

    def named(self, vector: Tensor) -> Parameters:
        """Take a vector apart again.

        Args:
            vector: `(P,)`.

        Returns:
            Tensors by name, of the shapes of the parameters.
        """
        at = self.at()
        parts = torch.split(vector, [p.numel() for p in at.values()])
        return {name: part.view_as(p) for (name, p), part in zip(at.items(), parts, strict=True)}

    def prepared(self, solver: Hashable, prepare: Callable[[], T]) -> T:
        """Return what a solver needs for every system with this Hessian; made once.

        Args:
            solver: The solver.
            prepare: Makes it.

        Returns:
            What `prepare` returned at the first call.
        """
        if solver not in self._prepared:
            self._prepared[solver] = prepare()
        found: T = self._prepared[solver]
        return found

    def gradient(self) -> Tensor:
        """Return the gradient of the mean loss, without weight decay, `(P,)`."""
        return self._mean(lambda total, at: self.flat(grad(total)(at)))

    def product(self, vector: Tensor) -> Tensor:
        """Multiply the Hessian with a vector; one pass over the data.

        Args:
            vector: `(P,)`.

        Returns:
            The product, `(P,)`.
        """
        return self._mean(lambda total, at: self._along(vector, total, at)) + self._diagonal * vector

    def matrix(self) -> Tensor:
        """Return the whole Hessian, `(P, P)`; one pass over the data, with P products for each batch."""
        eye = torch.eye(self.size, dtype=self._diagonal.dtype, device=self._diagonal.device)

        def columns(total: Callable[[Parameters], Tensor], at: Parameters) -> Tensor:
            found: Tensor = vmap(lambda vector: self._along(vector, total, at), chunk_size=_COLUMNS)(eye)
            return found

        return self._mean(columns) + self._diagonal.diag()

    # How the gradient changes along a vector.
    def _along(self, vector: Tensor, total: Callable[[Parameters], Tensor], at: Parameters) -> Tensor:
        return self.flat(jvp(grad(total), (at,), (self.named(vector),))[1])

    # `function` gets the summed loss of a batch as a function of the parameters, and where to differentiate.
    def _mean(self, function: Callable[[Callable[[Parameters], Tensor], Parameters], Tensor]) -> Tensor:
        fixed = {name: p for name, p in self._all.items() if name not in self.names}
        found, rows = torch.zeros((), device=self._diagonal.device), 0
        with self.stage.running() as losses:
            for batch in self.stage.batches():

                def total(at: Parameters, batch: Any = batch) -> Tensor:  # noqa: ANN401 -- any structure
                    return losses({**fixed, **at}, batch).sum()

                found = found + function(total, self.at())
                rows += n_rows(batch)
        mean = found / rows
        if not mean.isfinite().all():
            data, module = (type(part).__name__ for part in (self.stage.pool.dataset, self.stage.module))
            raise ValueError(
                f"The loss must have finite derivatives, got NaN or infinity over the {rows} samples of "
                f"`data` ({data}) of the stage of {module}. Mend the sample whose loss or gradient "
                "overflows, or run the model and its losses in float64."
            )
        return mean
