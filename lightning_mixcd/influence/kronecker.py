"""Products with the inverse of a Hessian that is taken apart layer by layer (EK-FAC)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

from lightning_mixcd.errors import check_range
from lightning_mixcd.influence.curvature import Curvature
from lightning_mixcd.influence.solvers import Solver
from lightning_mixcd.influence.stage import RowLosses

__all__ = ["KroneckerFactored"]


@dataclass(frozen=True)
class KroneckerFactored(Solver):
    """Solves by EK-FAC, with the library kronfluence: for models too large for conjugate gradients.

    The Hessian is approximated by the Fisher matrix, in one block for each `nn.Linear` and `nn.Conv2d`
    (George et al. 2018, arXiv:1806.03884; for influence Grosse et al. 2023, arXiv:2308.03296). Parameters of
    other layers count as fixed: their part of the solution is 0. Fitting takes two passes over the data with
    a backward each, done once for each Hessian. Takes the extra `influence`.

    Args:
        damping: What is added to the diagonal of each block, above 0.
        sampled: `sampled(module, batch)` returns the loss of each row for a label that is drawn from what the
            model predicts; it makes the matrix that of Gauss and Newton, near the Hessian. None takes the
            labels of the data, which is farther from it, most of all where the model fits the data well.
        progress: Whether bars are shown.

    Raises:
        ValueError: If `damping` is not positive.

    Example:
        >>> solver = KroneckerFactored(damping=1e-3)  # influence(..., solver=solver)
    """

    damping: float = 1e-8
    sampled: RowLosses | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        check_range("(0, inf)", "The default is 1e-8.", damping=self.damping)

    @override
    def solve(self, curvature: Curvature, vector: Tensor) -> Tensor:
        try:
            from lightning_mixcd.influence import _ekfac
        except ImportError as error:
            raise ImportError(
                "`KroneckerFactored` needs kronfluence. Install it with `pip install "
                "'lightning-mixcd[influence]'`."
            ) from error

        layers = _layers(curvature)
        given = curvature.named(vector)
        found = {name: torch.zeros_like(value) for name, value in given.items()}
        factors = curvature.prepared(
            self,
            lambda: _ekfac.fit(curvature.stage, list(layers), sampled=self.sampled, progress=self.progress),
        )
        for layer, names in layers.items():
            parts = [given[name].reshape(len(given[name]), -1) for name in names]
            damping = self.damping + curvature.shift[names[0]]
            solved = _ekfac.solve_block(factors, layer, torch.cat(parts, dim=1), damping=damping)
            widths = [part.shape[1] for part in parts]
            for name, part in zip(names, torch.split(solved, widths, dim=1), strict=True):
                found[name] = part.reshape(given[name].shape).to(vector.dtype)
        return curvature.flat(found)


# Names of the parameters of each layer that EK-FAC knows, weight first.
def _layers(curvature: Curvature) -> dict[str, list[str]]:
    layers: dict[str, list[str]] = {}
    for layer, module in curvature.stage.module.named_modules():
        names = [f"{layer}.{name}" for name, _ in module.named_parameters(recurse=False)]
        chosen = [name for name in names if name in curvature.names]
        if isinstance(module, (nn.Linear, nn.Conv2d)) and chosen:
            if chosen != names:
                raise ValueError(
                    f"`KroneckerFactored` solves for whole layers, but of {layer!r} only {chosen} are asked "
                    "for. Let `embedding` take all parameters of a layer or none, and freeze none alone."
                )
            layers[layer] = names
    if not layers:
        raise ValueError(
            "`KroneckerFactored` solves for the parameters of `nn.Linear` and `nn.Conv2d` inside the module, "
            f"got {list(curvature.names)[:20]}. Use `ConjugateGradients()`."
        )
    return layers
