"""Products with the inverse of a Hessian."""

import math
import warnings
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.influence.curvature import Curvature

__all__ = ["ConjugateGradients", "Exact", "Solver"]


class Solver(Protocol):
    """Solves linear systems with a Hessian."""

    def solve(self, curvature: Curvature, vector: Tensor) -> Tensor:
        """Return the inverse Hessian times a vector.

        Args:
            curvature: The Hessian H, of P parameters.
            vector: `(P,)`.

        Returns:
            About `H^-1 @ vector`, `(P,)`.
        """
        ...


@dataclass(frozen=True)
class Exact(Solver):
    """Solves by the eigenvectors of the whole Hessian, for small models and for checking other solvers.

    The Hessian of a network is often not positive definite, so the solution is that of the damped least
    squares problem, minimal `|H x - vector|^2 + damping |x|^2`. Without damping, directions in which the
    objective is flat stay at 0.

    Args:
        damping: From 0, in units of the squared Hessian.
        max_parameters: Largest Hessian that is made; 4000 parameters take 128 MB in float64, and time grows
            with the third power.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.eye(2), torch.zeros(2, 1))
        >>> squares = lambda module, batch: (module(batch[0]) - batch[1])[:, 0] ** 2
        >>> from lightning_mixcd.influence import Stage
        >>> curvature = Curvature(Stage(torch.nn.Linear(2, 1), data, squares), ["weight"])
        >>> Exact().solve(curvature, torch.tensor([3.0, 0.0]))
        tensor([3., 0.])
    """

    damping: float = 0.0
    max_parameters: int = 4000

    def __post_init__(self) -> None:
        check_range("[0, inf)", "0 adds nothing.", damping=self.damping)

    @override
    def solve(self, curvature: Curvature, vector: Tensor) -> Tensor:
        if curvature.size > self.max_parameters:
            raise ValueError(
                f"`Exact` takes at most {self.max_parameters} parameters (`max_parameters`), got "
                f"{curvature.size}. Use `ConjugateGradients()` or `KroneckerFactored()`."
            )
        if torch.finfo(vector.dtype).bits < 32:
            raise ValueError(
                f"`Exact` must have a model in float32 or float64, got {vector.dtype}. Take "
                "`module.float()`, or `ConjugateGradients()`."
            )
        values, vectors = curvature.prepared("eigen", lambda: torch.linalg.eigh(curvature.matrix()))
        flat = values.abs() <= values.abs().max() * curvature.size * torch.finfo(values.dtype).eps
        inverse = torch.where(flat, 0.0, values / (values**2 + self.damping))
        found: Tensor = vectors @ (inverse * (vectors.T @ vector))
        return found


@dataclass(frozen=True)
class ConjugateGradients(Solver):
    """Solves by conjugate gradients, with Hessian-vector products over the data in batches.

    It is the damped least squares problem that is solved, minimal `|H x - vector|^2 + damping |x|^2`, because
    conjugate gradients need a positive definite matrix and the Hessian of a network is none (Chen et al.
    2020, arXiv:2007.09081, solve with the squared Hessian too). Memory is that of a few copies of the model;
    an iteration takes two passes over the data.

    Args:
        damping: From 0, in units of the squared Hessian. More damping takes fewer iterations and shrinks what
            the objective is flat in.
        tolerance: How small the gradient of the problem must become, as a share of its first value.
        max_iterations: Iterations before a warning that the solution is not as exact as that.
        progress: Whether a bar is shown.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> data = torch.utils.data.TensorDataset(torch.eye(2), torch.zeros(2, 1))
        >>> squares = lambda module, batch: (module(batch[0]) - batch[1])[:, 0] ** 2
        >>> from lightning_mixcd.influence import Stage
        >>> curvature = Curvature(Stage(torch.nn.Linear(2, 1), data, squares), ["weight"])
        >>> ConjugateGradients(damping=0.0, progress=False).solve(curvature, torch.tensor([3.0, 0.0]))
        tensor([3., 0.])
    """

    damping: float = 1e-6
    tolerance: float = 1e-3
    max_iterations: int = 200
    progress: bool = True

    def __post_init__(self) -> None:
        check_range("[0, inf)", "0 adds nothing.", damping=self.damping)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"`tolerance` must lie between 0 and 1, got {self.tolerance}, not 1e-3 or so.")
        if self.max_iterations < 1:
            raise ValueError(f"`max_iterations` must be at least 1, got {self.max_iterations}.")

    @override
    def solve(self, curvature: Curvature, vector: Tensor) -> Tensor:
        found, rest = torch.zeros_like(vector), vector.clone()
        slope = curvature.product(rest)
        direction, size = slope.clone(), slope.dot(slope)
        if not size.isfinite():
            raise ValueError(
                f"The squared norm of a gradient must be finite, got {float(size)} in {vector.dtype}. Run "
                "the model in float64, or in float32 where it was in half precision."
            )
        # The gradient's squared norm at which to stop.
        goal = self.tolerance**2 * float(size)
        best, least, done = found, size, 0
        with tqdm(total=self.max_iterations, desc="Solving", disable=not self.progress) as bar:
            while done < self.max_iterations:
                if float(size) <= goal:
                    return found
                image = curvature.product(direction)
                step = size / (image.dot(image) + self.damping * direction.dot(direction))
                found = found + step * direction
                rest -= step * image
                slope = curvature.product(rest) - self.damping * found
                before, size, done = size, slope.dot(slope), done + 1
                if size < least:
                    best, least = found, size
                # Beyond the precision, iterations diverge.
                if not size.isfinite():
                    found, size = best, least
                    break
                direction = slope + size / before * direction
                bar.update()
        if float(size) > goal:
            reached = self.tolerance * math.sqrt(float(size) / goal)
            warnings.warn(
                f"Conjugate gradients stopped after {done} iterations at {reached:.1e} of "
                f"the first gradient, above `tolerance` {self.tolerance:.1e}. Raise `max_iterations` or "
                "`damping`, or run the model in float64.",
                stacklevel=2,
            )
        return found
