"""How close features lie to those of a task: Gaussians, and the weight that follows from them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

__all__ = ["Gaussians", "calibrated_weight", "fit_gaussian", "gate_weight"]

RIDGE = 1e-7
MARKS = (0.05, 0.5)  # quantiles of a task's own densities, at which a calibrated gate is half and nearly open
AT_MEDIAN = 0.95


@dataclass(frozen=True)
class Gaussians:
    """One Gaussian per task.

    Args:
        means: `(T, d)`.
        factors: Lower Cholesky factors of the covariances, `(T, d, d)`.
        marks: Log-densities of each task's own samples: what 5 % and what half of them are below, `(T, 2)`.
    """

    means: Tensor
    factors: Tensor
    marks: Tensor

    def __len__(self) -> int:
        return len(self.means)

    def __add__(self, others: "Gaussians") -> "Gaussians":
        pairs = zip(vars(self).values(), vars(others).values(), strict=True)
        return Gaussians(*(torch.cat([one, other.to(one)]) for one, other in pairs))

    def to(self, device: torch.device) -> "Gaussians":
        """Move them.

        Args:
            device: Where to.

        Returns:
            The same there; these, if they are there already.
        """
        if self.means.device == device:
            return self
        return Gaussians(*(values.to(device) for values in vars(self).values()))

    def log_density(self, features: Tensor) -> Tensor:
        """Return the log-density of each sample under each Gaussian.

        Args:
            features: `(B, d)`.

        Returns:
            In nats, `(B, T)`.
        """
        normal = MultivariateNormal(self.means, scale_tril=self.factors, validate_args=False)
        density: Tensor = normal.log_prob(features.float()[:, None])  # type: ignore[no-untyped-call]
        return density


def fit_gaussian(features: Tensor) -> Gaussians:
    """Fit a Gaussian with full covariance.

    With fewer samples than features, or as many, the covariance is shrunk towards a multiple of the identity
    by the oracle approximating estimate (Chen et al. 2010, arXiv:0907.4698), as scikit-learn's `OAS` does.

    Args:
        features: `(N, d)`.

    Returns:
        One Gaussian, float32.

    Raises:
        ValueError: If there are fewer than two samples, or a feature is not finite.

    Example:
        >>> found = fit_gaussian(torch.tensor([[0.0], [2.0]]))
        >>> found.means.item(), round(found.factors.item() ** 2, 4)
        (1.0, 2.0)
    """
    if len(features) < 2:
        raise ValueError(
            f"`features` must be of at least 2 samples for a covariance, got {len(features)}. Give more "
            "samples of the task."
        )
    if not features.isfinite().all():
        raise ValueError(
            "`features` must be finite, got others. Look for samples that the model overflows on."
        )
    values = features.cpu().double()  # not every device has float64
    count, width = values.shape
    covariance = values.T.cov().reshape(width, width)
    eye = torch.eye(width, dtype=values.dtype)
    if count <= width:
        share = _shrinkage(covariance, count)
        covariance = (1 - share) * covariance + share * covariance.trace() / width * eye
    factor = torch.linalg.cholesky(covariance + RIDGE * eye)
    normal = MultivariateNormal(values.mean(0), scale_tril=factor)
    density: Tensor = normal.log_prob(values)  # type: ignore[no-untyped-call]
    marks = density.quantile(values.new_tensor(MARKS))
    found = (normal.mean, factor, marks)
    return Gaussians(*(value[None].float().to(features.device) for value in found))


def gate_weight(log_density: Tensor, width: int) -> Tensor:
    """Return how far the branch is open.

    Args:
        log_density: Of each sample under the Gaussian of its task, in nats, any shape.
        width: Number of features d.

    Returns:
        sigmoid(log-density / d - 1), in (0, 1).

    Example:
        >>> gate_weight(torch.tensor([64.0, -6400.0]), 64)
        tensor([0.5000, 0.0000])
    """
    return torch.sigmoid(log_density / width - 1)


def calibrated_weight(log_density: Tensor, marks: Tensor) -> Tensor:
    """Return how far a branch is open whose task says by its own samples what is close.

    Args:
        log_density: Of each sample under the Gaussian of its task, `(B,)`.
        marks: Of that task, `(B, 2)`; see `Gaussians`.

    Returns:
        A sigmoid of the log-density, that is 0.5 at the first mark and 0.95 at the second.

    Example:
        >>> calibrated_weight(torch.tensor([0.0, 4.0]), torch.tensor([[0.0, 4.0], [0.0, 4.0]]))
        tensor([0.5000, 0.9500])
    """
    low, high = marks.unbind(1)
    slope = math.log(AT_MEDIAN / (1 - AT_MEDIAN)) / (high - low).clamp(min=1e-6)
    return torch.sigmoid(slope * (log_density - low))


def _shrinkage(covariance: Tensor, count: int) -> Tensor:
    width = len(covariance)
    mean_square, square_mean = covariance.square().mean(), (covariance.trace() / width).square()
    above, below = mean_square + square_mean, (count + 1) * (mean_square - square_mean / width)
    # Of constant features nothing is left to shrink.
    return torch.where(below > 0, (above / below).clamp(max=1), 1.0)
