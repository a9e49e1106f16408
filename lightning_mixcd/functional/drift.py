r"""How features drift while a model is finetuned, estimated from the few rows that are trained anyway.

The drift of a sample's features since the base model, $\delta(x) = \phi_t(x) - \phi_0(x)$, is taken for a
linear function of where they were, in coordinates $z$ of the base features: their centred directions of
largest variance, and a constant 1. What is needed of the rows are sums, the *moments*, so that old rows can
fade and ranks can be added up. Ridge regression does the rest.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Basis",
    "coordinates",
    "corrected",
    "diagonal_fit",
    "feature_basis",
    "leading_directions",
    "moments",
    "own_moments",
    "principal_directions",
    "ridge_fit",
]


class Basis(NamedTuple):
    """Coordinates of base features.

    Args:
        mean: Mean of the features, `(d,)`.
        directions: Directions of largest variance, largest first, orthonormal, `(r, d)`.
        scale: Root of the mean variance of a feature, 0-dim; 1 where they do not vary.
    """

    mean: Tensor
    directions: Tensor
    scale: Tensor


def feature_basis(features: Tensor, rank: int) -> Basis:
    """Find the coordinates that the drift of features may depend on.

    Args:
        features: Base features of a sample of the pool, `(n, d)`.
        rank: Most directions, r; there are no more than d.

    Returns:
        The basis, float32.

    Example:
        >>> feature_basis(torch.tensor([[0.0, 1.0], [4.0, 1.0]]), rank=1)[:2]
        (tensor([2., 1.]), tensor([[1., 0.]]))
    """
    x = features.double()
    mean = x.mean(dim=0)
    centred = x - mean
    scale = centred.square().mean().sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return Basis(mean.float(), principal_directions(centred, rank), scale.float())


def principal_directions(vectors: Tensor, rank: int) -> Tensor:
    """Find the directions along which vectors are longest, in the mean square; they are not centred.

    Args:
        vectors: `(n, d)`.
        rank: Most directions, k; there are no more than d.

    Returns:
        Orthonormal rows, the leading one first, float32, `(k, d)`.

    Example:
        >>> principal_directions(torch.tensor([[3.0, 4.0], [6.0, 8.0]]), rank=1)
        tensor([[0.6000, 0.8000]])
    """
    x = vectors.double()
    return leading_directions(x.T @ x, rank).float()


def leading_directions(squares: Tensor, rank: int) -> Tensor:
    """Find the leading eigenvectors of a matrix; their signs do not depend on the library that finds them.

    Args:
        squares: Symmetric, `(d, d)`.
        rank: Most directions, k; there are no more than d.

    Returns:
        Orthonormal rows, the leading one first, the greatest entry of each positive, `(k, d)`.

    Example:
        >>> leading_directions(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), rank=1)
        tensor([[0., 1.]])
    """
    _, found = torch.linalg.eigh(squares)
    directions = found.T.flip(0)[:rank]
    signs = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()
    signed: Tensor = directions * signs
    return signed


def coordinates(features: Tensor, basis: Basis) -> Tensor:
    """Express base features in a basis.

    Args:
        features: Base features, `(R, d)`.
        basis: The basis.

    Returns:
        A constant 1, then r coordinates whose mean variance is about 1, `(R, 1 + r)`.

    Example:
        >>> basis = feature_basis(torch.tensor([[0.0, 1.0], [4.0, 1.0]]), rank=1)
        >>> coordinates(torch.tensor([[4.0, 1.0]]), basis)
        tensor([[1.0000, 1.4142]])
    """
    z = (features - basis.mean) @ basis.directions.T / basis.scale
    return torch.cat([torch.ones_like(z[:, :1]), z], dim=1)


def corrected(features: Tensor, basis: Basis, fit: Tensor) -> Tensor:
    r"""Bring base features up to date.

    $\hat\phi_t = \phi_0 + a \odot (\phi_0 - \mu) / s + z B$.

    Args:
        features: Base features $\phi_0$, `(R, d)`.
        basis: The basis, whose mean is $\mu$ and scale s.
        fit: a, then B, `(..., 2 + r, d)`.

    Returns:
        Features, `(..., R, d)`.

    Example:
        >>> basis = Basis(torch.zeros(2), torch.eye(2), torch.tensor(1.0))
        >>> fit = torch.tensor([[2.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 0.0]])
        >>> corrected(torch.tensor([[1.0, 10.0]]), basis, fit)
        tensor([[ 3.5000, 11.5000]])
    """
    own, constant, slopes = fit[..., :1, :], fit[..., 1:2, :], fit[..., 2:, :] / basis.scale
    # All that is constant at once: there may be many rows.
    constant = constant - basis.mean * own / basis.scale - (basis.mean[None] @ basis.directions.T) @ slopes
    return features * (1 + own / basis.scale) + (features @ basis.directions.T) @ slopes + constant


def moments(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Sum up over rows what a linear regression needs to know of them.

    Args:
        inputs: z, `(R, k)`.
        outputs: y, `(R, d)`.

    Returns:
        `(k, k + d)`: sums of z z' and of z y'.

    Example:
        >>> moments(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]]))
        tensor([[ 5., 11.]])
    """
    return inputs.T @ torch.cat([inputs, outputs], dim=1)


def ridge_fit(sums: Tensor, ridge: float) -> Tensor:
    r"""Fit a linear map by ridge regression.

    $B = (\sum z z^\top + \lambda I)^{-1} \sum z y^\top$, through a Cholesky factor. Moments of fewer inputs
    are a corner of those of more, so smaller models need no sums of their own.

    Args:
        sums: Of `moments`, `(k, k + d)`.
        ridge: Strength of the pull towards 0, above 0: as strong as that many rows of unit size.

    Returns:
        B, by which y is about z B, `(k, d)`.

    Example:
        >>> z = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
        >>> ridge_fit(moments(z, z @ torch.tensor([[3.0], [-2.0]])), ridge=1e-6).round(decimals=3)
        tensor([[ 3.],
                [-2.]])
    """
    k = len(sums)
    prior = ridge * torch.eye(k, dtype=sums.dtype, device=sums.device)
    factor, _ = torch.linalg.cholesky_ex(sums[:, :k] + prior)
    return torch.cholesky_solve(sums[:, k:], factor)


def own_moments(inputs: Tensor, outputs: Tensor) -> Tensor:
    """Sum up over rows what a regression of each output on the one input beside it needs to know of them.

    Args:
        inputs: x, `(R, d)`.
        outputs: y, `(R, d)`.

    Returns:
        `(5, d)`: the number of rows, and sums of x, x x, y and x y.

    Example:
        >>> own_moments(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])).flatten()
        tensor([ 2.,  3.,  5.,  7., 11.])
    """
    ones = torch.ones_like(inputs)
    return torch.stack([ones, inputs, inputs * inputs, outputs, inputs * outputs]).sum(dim=1)


def diagonal_fit(sums: Tensor, ridge: float) -> Tensor:
    r"""Fit each output by a constant and one input of its own.

    Args:
        sums: Of `own_moments`, `(5, d)`.
        ridge: As for `ridge_fit`.

    Returns:
        Constants and slopes, by which y is about the constant plus the slope times x, `(2, d)`.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[3.0], [1.0], [-1.0]])
        >>> diagonal_fit(own_moments(x, y), ridge=1e-6).round(decimals=3)
        tensor([[ 3.],
                [-2.]])
    """
    n, x, xx, y, xy = sums.unbind()
    n, xx = n + ridge, xx + ridge
    determinant = n * xx - x * x
    return torch.stack([xx * y - x * xy, n * xy - x * y]) / determinant
